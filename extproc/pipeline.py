"""The walk of a request, on one screen: authenticate -> read -> route -> reserve.

In: the headers, then the body of a client's request. Out: a `Plan`, from which attempts are shaped, or a
GatewayError. The exchange calls it; it knows nothing of Envoy. Time comes in as a parameter.
"""

from collections.abc import Mapping

import msgspec

from extproc.auth import authenticate
from extproc.budget.reserve import Reserver
from extproc.catalog import AUTO, Catalog, TeamView
from extproc.chat import GatewayMetadata, gateway_metadata, parse_chat, prompt_hash
from extproc.errors import InvalidRequest, MethodNotAllowed, RequestTooLarge, TeamMismatch
from extproc.models import MODELS_PATH
from extproc.plan import Plan
from extproc.ports import Clock
from extproc.records import ChatRequest, Decision
from extproc.routing.choose import Choice, choose
from extproc.routing.classify import Complexity, classify
from extproc.telemetry.steps import Steps
from extproc.telemetry.trace_context import LONGEST
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
    traceparent: str | None = None

    def refused(self) -> Decision:
        """What is known of a request that was refused before it was decided."""
        return Decision(
            request_id=self.request_id,
            team_id=self.team.id,
            received_at=self.received_at,
            traceparent=self.traceparent,
        )


class Pipeline:
    """The walk, bound to a worker's catalog, ledger and clock."""

    def __init__(self, catalog: Catalog, reserver: Reserver, clock: Clock) -> None:
        self.catalog = catalog
        self.clock = clock
        self._reserver = reserver

    def use(self, catalog: Catalog) -> None:
        """Go by `catalog` from the next request on."""
        self.catalog = catalog

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
            traceparent=headers.get("traceparent", "")[:LONGEST] or None,
        )

    async def decide(self, admission: Admission, body: bytes) -> Plan:
        """Read the body, choose the targets, hold what it may cost, shape the first attempt. Raises GatewayError."""
        steps = Steps(self.clock)
        chat, wishes = read(admission, body)
        steps.done("read")
        complexity = classify(chat) if chat.model == AUTO else None
        choice = _route(admission, chat, wishes, complexity)
        steps.done("route")
        hold = await self._reserver.reserve(
            admission.team.settings,
            chat,
            choice.targets,
            hold_id=admission.request_id,
            priority=wishes.priority,
            now_ms=round(admission.received_at * 1000),
        )
        settings = admission.team.settings
        if settings.auto_downgrade and hold.used_pct >= settings.alert.thresholds_pct[0]:
            choice = _route(admission, chat, wishes, complexity, downgrade=True)
        steps.done("reserve")
        if hold.max_tokens is not None:
            chat = msgspec.structs.replace(chat, max_tokens=hold.max_tokens)
        first = choice.targets[0]
        decision = Decision(
            request_id=admission.request_id,
            team_id=admission.team.id,
            model_requested=chat.model,
            model_routed=first.model,
            provider=first.provider,
            routing_decision=choice.reason,
            prompt_hash=prompt_hash(chat),
            input_tokens=hold.input_tokens,
            estimated_output_tokens=hold.output_tokens,
            priority=wishes.priority,
            received_at=admission.received_at,
            stream=chat.stream,
            decided_us=steps.total_us,
            steps_us=steps.us,
            traceparent=admission.traceparent,
            targets=choice.targets,
        )
        return Plan(
            chat,
            decision,
            f"chatcmpl-{admission.request_id.replace('-', '')}",
            admission.catalog.endpoints,
            hold.headers,
        )


def read(admission: Admission, body: bytes) -> tuple[ChatRequest, GatewayMetadata]:
    """The request, and what it wants of the gateway itself. Raises RequestTooLarge, InvalidRequest, TeamMismatch."""
    if len(body) > MAX_REQUEST_BYTES:
        raise too_large()
    chat = parse_chat(body)
    wishes = gateway_metadata(chat)
    if wishes.team_id is not None and wishes.team_id != admission.team.id:
        raise TeamMismatch("metadata.team_id is not the team of this API key.", param="metadata.team_id")
    return chat, wishes


def _route(
    admission: Admission,
    chat: ChatRequest,
    wishes: GatewayMetadata,
    complexity: Complexity | None,
    *,
    downgrade: bool = False,
) -> Choice:
    """`complexity`: of a request for `auto`, None for a pinned model."""
    return choose(
        admission.catalog, admission.team, chat.model, complexity, fallback=wishes.fallback, downgrade=downgrade
    )


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
