"""The walk of a request, on one screen: authenticate -> read -> route -> shape.

In: the headers, then the body of a client's request. Out: a `Plan` whose first attempt is ready to go upstream, or a
GatewayError. The exchange calls it; it knows nothing of Envoy. Time comes in as a parameter.
"""

from collections.abc import Mapping

import msgspec

from extproc.auth import authenticate
from extproc.catalog import Catalog, TeamView
from extproc.chat import gateway_metadata, parse_chat, prompt_hash, text_chars
from extproc.errors import InvalidRequest, MethodNotAllowed, RequestTooLarge, TeamMismatch
from extproc.models import MODELS_PATH
from extproc.plan import Plan
from extproc.ports import Clock
from extproc.records import Decision
from extproc.routing.choose import choose
from extproc.wire import H_REQUEST_ID, MAX_REQUEST_BYTES

CHAT_PATH = "/v1/chat/completions"


class Admission(msgspec.Struct, frozen=True):
    """A request whose sender is known; its body is still to come."""

    request_id: str
    team: TeamView
    catalog: Catalog  # the snapshot this request keeps
    path: str  # without its query
    received_at: float  # seconds since the epoch
    began_ns: int

    def refused(self) -> Decision:
        """What is known of a request that was refused before it was decided."""
        return Decision(request_id=self.request_id, team_id=self.team.id, received_at=self.received_at)


class Pipeline:
    """The walk, bound to a worker's catalog and clock."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self.catalog = catalog
        self.clock = clock

    def authenticate(self, headers: Mapping[str, str]) -> Admission:
        """Who sends this, before a byte of the body is read. Raises InvalidApiKey."""
        began_ns = self.clock.mono_ns()
        return Admission(
            request_id=headers.get(H_REQUEST_ID, ""),
            team=authenticate(self.catalog, headers),
            catalog=self.catalog,
            path=headers.get(":path", "").partition("?")[0],
            received_at=self.clock.wall_s(),
            began_ns=began_ns,
        )

    def decide(self, admission: Admission, body: bytes) -> Plan:
        """Read the body, choose the targets, shape the first attempt. Raises GatewayError."""
        if len(body) > MAX_REQUEST_BYTES:
            raise too_large()
        chat = parse_chat(body)
        wishes = gateway_metadata(chat)
        if wishes.team_id is not None and wishes.team_id != admission.team.id:
            raise TeamMismatch("metadata.team_id is not the team of this API key.", param="metadata.team_id")
        choice = choose(admission.catalog, admission.team, chat.model, text_chars(chat), fallback=wishes.fallback)
        first = choice.targets[0]
        decision = Decision(
            request_id=admission.request_id,
            team_id=admission.team.id,
            model_requested=chat.model,
            model_routed=first.model,
            provider=first.provider,
            routing_decision=choice.reason,
            prompt_hash=prompt_hash(chat),
            priority=wishes.priority,
            received_at=admission.received_at,
            stream=chat.stream,
            targets=choice.targets,
        )
        plan = Plan(chat, decision, f"chatcmpl-{admission.request_id.replace('-', '')}")
        plan.first()
        return plan


def check_request(headers: Mapping[str, str]) -> None:
    """What can be refused by the headers of an authenticated request. Raises GatewayError."""
    path, method = headers.get(":path", "").partition("?")[0], headers.get(":method", "")
    wanted = "POST" if path == CHAT_PATH else "GET"
    if method != wanted:
        raise MethodNotAllowed(f"Not allowed: {method} {path}; use {wanted}.")
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
