"""A request whose sender is known, and what can be refused before its body has come.

In: the headers. Out: an `Admission`, which goes along on the rest of the walk, or a GatewayError. Made by the pipeline.
"""

from collections.abc import Mapping

import msgspec

from extproc.catalog import Catalog, TeamView
from extproc.errors import InvalidRequest, MethodNotAllowed, RequestTooLarge
from extproc.model_list import MODELS_PATH
from extproc.records import Decision
from extproc.wire import MAX_REQUEST_BYTES

CHAT_PATH = "/v1/chat/completions"
_LONGEST_NAME = 256  # of a model that there is not, in the audit row


class Admission(msgspec.Struct):
    """A request whose sender is known; its body is still to come. `model` is filled in when that was read."""

    request_id: str
    team: TeamView
    catalog: Catalog  # the snapshot this request keeps
    path: str  # without its query
    received_at: float  # seconds since the epoch
    began_ns: int
    traceparent: str | None = None
    cache_control: str = ""
    model: str = ""  # asked for

    @property
    def now_ms(self) -> int:
        """When it came in, in milliseconds since the epoch."""
        return round(self.received_at * 1000)

    def refused(self) -> Decision:
        """What is known of a request that was refused before it was decided."""
        return Decision(
            request_id=self.request_id,
            team_id=self.team.id,
            model_requested=self.model[:_LONGEST_NAME],
            received_at=self.received_at,
            traceparent=self.traceparent,
        )


def check_request(headers: Mapping[str, str]) -> None:
    """What can be refused by the headers of an authenticated request. Raises GatewayError."""
    path, method = headers.get(":path", "").partition("?")[0], headers.get(":method", "")
    wanted = "POST" if path == CHAT_PATH else "GET"
    if method != wanted:
        refusal = MethodNotAllowed(f"Not allowed: {method} {path}; use {wanted}.")
        refusal.allow = wanted
        raise refusal
    if path.startswith(MODELS_PATH):
        return
    if headers.get("content-encoding", "identity") != "identity":
        raise InvalidRequest("Compressed request bodies are not accepted.", param="content-encoding")
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length) > MAX_REQUEST_BYTES:
        raise too_large()


def too_large() -> RequestTooLarge:
    """The 413 of this gateway."""
    return RequestTooLarge(f"The request body is larger than {MAX_REQUEST_BYTES // (1024 * 1024)} MiB.")
