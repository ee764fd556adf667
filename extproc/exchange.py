"""One exchange with Envoy: a state machine over its messages, as a table.

In: one ext_proc message after the other, as bytes. Out: the reply to each, as bytes. A request's exchange lives until
its answer began, so that a fallback attempt, which arrives as an exchange of its own, finds it in `Live`.
The diagram in ARCHITECTURE.md is drawn from TRANSITIONS. Free of grpc; called by `extproc.server`.
"""

import logging
import math
from collections.abc import Mapping
from enum import Enum

import msgspec

from extproc import answer, frames, models
from extproc.adapters.emit import ClientStream
from extproc.auth import check_address
from extproc.cache.served import ROUTING, Served
from extproc.encoding import Plain
from extproc.errors import GatewayError, InvalidRequest, NoProviderAvailable, ProviderError
from extproc.frames import BodyMode, Event, Kind, Metadata
from extproc.pipeline import CHAT_PATH, Admission, Pipeline, check_request
from extproc.plan import Attempt, Plan
from extproc.records import Outcome
from extproc.wire import (
    H_CLUSTER,
    H_FALLBACK,
    H_HEDGE,
    H_MAX_RETRIES,
    H_METADATA,
    H_MODEL,
    H_PER_TRY_TIMEOUT,
    H_REQUEST_ID,
    H_TARGET,
    H_TOO_LONG,
    M_DECISION,
    M_HIDE_USAGE,
    M_NATIVE,
    M_OUTCOME,
    M_RECORD,
    M_ROOMIER,
    M_TARGET,
    M_TEAM,
    OWN_ANSWER,
    chain_cluster,
)

log = logging.getLogger(__name__)


class State(Enum):
    """Where an exchange is."""

    START = "start"
    READING = "reading"  # authenticated; Envoy buffers the body
    WAITING = "waiting"  # sent upstream; no answer yet
    BUFFERING = "buffering"  # Envoy collects the whole answer
    STREAMING = "streaming"  # the answer comes piece by piece
    DONE = "done"  # nothing more to say: answered here, or the rest passes by Envoy alone


TRANSITIONS: dict[tuple[State, Kind], tuple[State, ...]] = {
    (State.START, Kind.REQUEST_HEADERS): (State.READING, State.DONE),
    (State.READING, Kind.REQUEST_BODY): (State.WAITING, State.DONE),
    (State.READING, Kind.RESPONSE_HEADERS): (State.DONE,),  # Envoy answered itself, e.g. 413
    (State.WAITING, Kind.RESPONSE_HEADERS): (State.BUFFERING, State.STREAMING, State.DONE),
    (State.BUFFERING, Kind.RESPONSE_BODY): (State.DONE,),
    (State.STREAMING, Kind.RESPONSE_BODY): (State.STREAMING, State.DONE),
    (State.STREAMING, Kind.TRAILERS): (State.DONE,),
}

# What may go from a client to a provider; all else stays here (cookies, our own keys, SDK fingerprints).
# x-forwarded-proto is for Envoy, which routes nothing without it; its provider clusters take it off.
_TO_PROVIDER = frozenset(
    {"content-type", "content-length", "accept", "user-agent", "x-request-id", "x-forwarded-proto"}
)
# What may go from a provider to a client; its account's rate limits, cookies and ids are not the client's business.
_TO_CLIENT = frozenset({":status", "content-type", "content-length", "transfer-encoding", "date", "cache-control"})
_JSON = ("content-type", "application/json")


class Options(msgspec.Struct, frozen=True):
    """Settings an exchange needs."""

    worker: int  # index of this worker
    native_streams: bool = True
    metadata_in_body: bool = True
    native_answers: bool = False  # Envoy reads the usage of whole answers too, so they may pass by it alone


class Live:
    """The exchanges of this worker whose answer has not begun, by request id."""

    def __init__(self) -> None:
        self._plans: dict[str, Plan] = {}

    def add(self, plan: Plan) -> None:
        """Fallback attempts can find `plan` from now on."""
        self._plans[plan.decision.request_id] = plan

    def remove(self, plan: Plan) -> None:
        """Forget `plan`. Harmless twice."""
        self._plans.pop(plan.decision.request_id, None)

    def find(self, request_id: str) -> Plan:
        """The plan of a request. Raises NoProviderAvailable when it is gone."""
        plan = self._plans.get(request_id)
        if plan is None:
            raise NoProviderAvailable("The request is not known here.")
        return plan

    def __len__(self) -> int:
        return len(self._plans)


class Exchange:
    """The state machine. `receive` for each message, `close` when Envoy ended the stream, however it ended."""

    def __init__(self, pipeline: Pipeline, live: Live, options: Options) -> None:
        self.state = State.START
        self._pipeline = pipeline
        self._live = live
        self._options = options
        self._request_id = ""
        self._admission: Admission | None = None
        self._plan: Plan | None = None
        self._headers: dict[str, str] = {}  # of the request, then of the response
        self._stream: ClientStream | None = None
        self._plain = Plain("")
        self._attempt: Attempt | None = None
        self._fields = options.metadata_in_body  # whether the answer's body is to carry the gateway's fields
        self._own_ns = 0  # gateway's own time so far

    async def receive(self, data: bytes) -> bytes:
        """The reply to one message. Never raises on what Envoy or a client sent."""
        began_ns = self._pipeline.clock.mono_ns()
        try:
            event = frames.parse(data)
            allowed = TRANSITIONS.get((self.state, event.kind))
            if allowed is None:
                self.state = State.DONE
                return frames.nothing(event.kind)
            self.state, reply = await self._dispatch(event)
            return reply
        except GatewayError as error:
            self.state = State.DONE
            return await self._refuse(error)
        except Exception:
            log.exception("exchange failed", extra={"request_id": self._request_id})
            self.state = State.DONE
            return await self._refuse(GatewayError("The gateway failed to handle this request."))
        finally:
            self._own_ns += self._pipeline.clock.mono_ns() - began_ns

    def close(self) -> None:
        """Envoy ended the stream: the client left, the answer is through, or there is nothing more to ask."""
        self.state = State.DONE
        if self._plan is not None:
            self._live.remove(self._plan)
            self._plan.tape.give_up()

    async def _dispatch(self, event: Event) -> tuple[State, bytes]:
        if event.kind is Kind.REQUEST_HEADERS:
            return await self._on_request_headers(event)
        if event.kind is Kind.REQUEST_BODY:
            return await self._on_request_body(event)
        if event.kind is Kind.RESPONSE_HEADERS:
            return await self._on_own_answer() if self._plan is None else self._on_response_headers(event, self._plan)
        if event.kind is Kind.RESPONSE_BODY and self.state is State.BUFFERING:
            return State.DONE, self._on_whole_body(event.body)
        if event.kind is Kind.RESPONSE_BODY:
            return self._on_piece(event)
        return State.DONE, frames.nothing(event.kind)

    # --- the request ---------------------------------------------------------------------------------------------

    async def _on_request_headers(self, event: Event) -> tuple[State, bytes]:
        headers = event.headers
        if H_FALLBACK in headers:
            return State.DONE, self._on_fallback(headers)
        self._headers = headers
        if H_METADATA in headers:
            self._fields = headers[H_METADATA] == "body"
        self._request_id = headers.get(H_REQUEST_ID, "")
        self._admission = admission = self._pipeline.authenticate(headers)
        if admission.team.networks:
            check_address(admission.team.networks, headers)
        check_request(headers)
        if admission.path != CHAT_PATH:
            body = models.answer(admission.catalog, admission.team, admission.path)
            told = [_JSON, *self._answer_headers(None), *await self._limits()]
            return State.DONE, _immediate(200, body, told, {}, "models")
        if event.end:
            raise InvalidRequest("The request has no body; send a JSON object.")
        return State.READING, frames.accept_headers({M_TEAM: admission.team.id})

    async def _on_request_body(self, event: Event) -> tuple[State, bytes]:
        assert self._admission is not None  # noqa: S101 - the table leads here only from READING
        decided = await self._pipeline.decide(self._admission, event.body)
        if isinstance(decided, Served):
            if decided.hit.check:
                self._pipeline.check(self._headers, event.body)
            return State.DONE, self._from_cache(decided)
        self._plan = plan = decided
        self._live.add(plan)
        attempt = plan.first(self._pipeline.clock.mono_ns())
        endpoint = plan.endpoints[attempt.target.provider]
        headers = [
            *_routing(attempt, endpoint.authority, _join(endpoint.base_path, endpoint.query, attempt)),
            (H_CLUSTER, chain_cluster(attempt.target.provider, self._options.worker)),
            (H_MAX_RETRIES, str(len(plan.decision.targets) - attempt.index)),
            (H_PER_TRY_TIMEOUT, str(plan.deadline.ms)),
            *([(H_HEDGE, "true")] if plan.deadline.race else []),
        ]
        keep = {name for name, _ in headers} | _TO_PROVIDER
        return State.WAITING, frames.forward(
            headers=headers,
            remove=[name for name in self._headers if name not in keep and name[0] != ":"],
            body=attempt.request.body,
            metadata={M_DECISION: _json(plan.decision)} | ({M_ROOMIER: True} if plan.roomier else {}),
        )

    def _from_cache(self, served: Served) -> bytes:
        timing = self._timing()
        body = served.body(fields=self._fields, gateway_us=served.decision.decided_us, total_us=timing.total_us)
        metadata = {M_DECISION: _json(served.decision), M_OUTCOME: _json(served.outcome)}
        return _immediate(200, body, served.answer_headers(), metadata, ROUTING)

    def _on_fallback(self, headers: Mapping[str, str]) -> bytes:
        """An attempt after the first: Envoy's loopback asks for the same request in the next provider's terms."""
        plan = self._live.find(headers.get(H_REQUEST_ID, ""))
        attempt = plan.following(self._pipeline.clock.mono_ns(), larger=H_TOO_LONG in headers)
        endpoint = plan.endpoints[attempt.target.provider]
        wanted = [
            *_routing(attempt, endpoint.authority, _join(endpoint.base_path, endpoint.query, attempt)),
            (H_CLUSTER, endpoint.cluster),
        ]
        stale = {name for tried in plan.attempts for name, _ in tried.request.headers}
        return frames.replace(
            headers=wanted,
            remove=sorted(stale - {name for name, _ in wanted}),
            body=attempt.request.body,
            metadata={M_TARGET: str(attempt.index)},
        )

    def _native(self, attempt: Attempt) -> bool:
        return self._options.native_streams and attempt.target.format in ("openai", "azure")

    # --- the response --------------------------------------------------------------------------------------------

    async def _on_own_answer(self) -> tuple[State, bytes]:
        """Envoy's own, to a request that never got decided: its body was too large, or it was too slow."""
        headers = [*self._answer_headers(None), *await self._limits()]
        return State.DONE, frames.answer_headers(headers=headers, remove=(), mode=BodyMode.NONE, metadata={})

    def _on_response_headers(self, event: Event, plan: Plan) -> tuple[State, bytes]:
        self._live.remove(plan)
        self._headers = headers = event.headers
        index = headers.get(H_TARGET, "")
        self._attempt = attempt = plan.answered_by(int(index) if index.isdigit() else None)
        if attempt.index > 1:
            plan.tape.give_up()  # an answer of a model that stood in for the one asked for
        status = int(headers.get(":status", "0"))
        is_json = headers.get("content-type", "").startswith("application/json")
        streamed = status == 200 and plan.chat.stream and not is_json
        self._plain = plain = Plain(headers.get("content-encoding", ""))
        if status == 200 and plain.error is not None:
            raise plain.error
        if event.end:
            return State.DONE, self._on_whole_body(b"")
        if status == 200 and is_json and not plain.compressed and self._passes_whole(plan, attempt):
            outcome = Outcome(attempt=attempt.index, attempts=len(plan.attempts), native=True, complete=True)
            return State.DONE, self._pass_headers(attempt, BodyMode.NONE, {M_OUTCOME: _json(outcome)}, whole=True)
        if not streamed:
            return State.BUFFERING, self._pass_headers(attempt, BodyMode.BUFFERED)
        if self._native(attempt) and not plain.compressed:
            outcome = Outcome(
                attempt=attempt.index, attempts=len(plan.attempts), native=True, outrun=plan.outrun(attempt)
            )
            hide = not plan.chat.include_usage
            metadata: Metadata = {M_OUTCOME: _json(outcome), M_NATIVE: True, M_HIDE_USAGE: hide}
            ticket = plan.tape.hand_over()
            if ticket is not None:
                metadata = {**metadata, M_RECORD: _json(ticket)}
            return State.DONE, self._pass_headers(attempt, BodyMode.NONE, metadata)
        self._stream = ClientStream(attempt.adapter, include_usage=plan.chat.include_usage)
        return State.STREAMING, self._pass_headers(attempt, BodyMode.STREAMED)

    def _passes_whole(self, plan: Plan, attempt: Attempt) -> bool:
        """Whether nothing remains to be done with an answer that is not streamed."""
        mine = self._fields or plan.chat.stream or plan.tape.recording
        return self._options.native_answers and not mine and self._native(attempt)

    def _pass_headers(
        self, attempt: Attempt, mode: BodyMode, metadata: Metadata | None = None, *, whole: bool = False
    ) -> bytes:
        headers = self._answer_headers(attempt)
        remove = [name for name in self._headers if name not in _TO_CLIENT]
        if mode is BodyMode.STREAMED:
            headers.append(("content-type", "text/event-stream; charset=utf-8"))
        if mode is not BodyMode.BUFFERED and not whole:
            remove.append("content-length")  # a stream's length changes on its way
        return frames.answer_headers(headers=headers, remove=remove, mode=mode, metadata=metadata or {})

    def _on_whole_body(self, body: bytes) -> bytes:
        plan, attempt = self._plan, self._attempt
        assert plan is not None  # noqa: S101 - the table leads here only from WAITING
        assert attempt is not None  # noqa: S101
        status = int(self._headers.get(":status", "0"))
        body = self._plain.feed(body)
        if plan.too_long is not None and status == plan.too_long.http_status:
            raise plan.too_long
        if status != 200:
            raise answer.failure(attempt, status, self._headers, body)
        if plan.chat.stream:
            raise ProviderError(f"{attempt.target.provider} answered a streaming request without a stream.")
        if self._plain.error is not None:
            raise self._plain.error
        result = answer.whole(plan, attempt, body, self._timing(), fields=self._fields)
        plan.tape.whole(result.body, attempt.target, result.outcome, gateway_fields=self._fields)
        return frames.answer_body(
            result.body,
            headers=[_JSON, ("content-length", str(len(result.body)))],
            metadata={M_OUTCOME: _json(result.outcome)},
        )

    def _on_piece(self, event: Event) -> tuple[State, bytes]:
        stream, plan, attempt = self._stream, self._plan, self._attempt
        assert stream is not None  # noqa: S101 - the table leads here only from STREAMING
        assert plan is not None  # noqa: S101
        assert attempt is not None  # noqa: S101
        out = stream.feed(self._plain.feed(event.body))
        plan.tape.piece(out)
        if not event.end:
            return State.STREAMING, frames.answer_body(out)
        rest, final = stream.finish(self._plain.error)
        outcome = Outcome(
            attempt=attempt.index,
            attempts=len(plan.attempts),
            outrun=plan.outrun(attempt),
            usage=final.usage,
            finish_reason=final.finish_reason,
            complete=final.complete,
            error_code=final.error.code if final.error else None,
        )
        plan.tape.piece(rest)
        plan.tape.stream(attempt.target, outcome)
        return State.DONE, frames.answer_body(out + rest, metadata={M_OUTCOME: _json(outcome)})

    # --- what both share -----------------------------------------------------------------------------------------

    def _answer_headers(self, attempt: Attempt | None) -> list[tuple[str, str]]:
        headers = [("x-gateway-request-id", self._request_id)]
        if self._plan is not None:
            headers += self._plan.limit_headers
        if self._plan is not None and attempt is not None:
            headers += [
                ("x-gateway-model", attempt.target.model),
                ("x-gateway-provider", attempt.target.provider),
                *self._plan.cache_headers,
                ("x-gateway-routing", answer.routing_header(self._plan, attempt)),
                ("x-gateway-attempts", str(len(self._plan.attempts))),
            ]
        return headers

    async def _limits(self) -> tuple[tuple[str, str], ...]:
        """How the team's limits stand, where no hold has told."""
        return () if self._admission is None or self._plan else await self._pipeline.limits(self._admission)

    async def _refuse(self, error: GatewayError) -> bytes:
        plan, attempt = self._plan, self._attempt
        headers = [_JSON, *self._answer_headers(attempt), *(error.headers or await self._limits())]
        if error.retry_after_s is not None:
            headers.append(("retry-after", str(max(1, math.ceil(error.retry_after_s)))))
        outcome = Outcome(
            attempt=attempt.index if attempt else 1,
            attempts=len(plan.attempts) if plan and attempt else 0,
            error_code=error.payload()["error"]["code"],
            complete=True,
        )
        metadata: dict[str, str | bool] = {}
        if self._admission:
            decision = plan.decision if plan else self._admission.refused()
            metadata = {
                M_TEAM: decision.team_id,
                M_DECISION: _json(decision),
                M_OUTCOME: _json(outcome),
            }
        return _immediate(error.http_status, error.body(), headers, metadata, error.code)

    def _timing(self) -> answer.Timing:
        assert self._admission is not None  # noqa: S101
        total_ns = self._pipeline.clock.mono_ns() - self._admission.began_ns
        return answer.Timing(gateway_us=self._own_ns // 1000, total_us=total_ns // 1000)


def _immediate(status: int, body: bytes, headers: list[tuple[str, str]], metadata: Metadata, details: str) -> bytes:
    return frames.immediate(
        status=status, headers=headers, body=body, metadata=metadata, details=f"{OWN_ANSWER}{details}"
    )


def _json(record: msgspec.Struct) -> str:
    return msgspec.json.encode(record).decode()


def _routing(attempt: Attempt, authority: str, path: str) -> list[tuple[str, str]]:
    return [
        (":path", path),
        (":authority", authority),
        ("content-length", str(len(attempt.request.body))),
        ("accept-encoding", "identity"),
        (H_MODEL, attempt.target.model),
        *attempt.request.headers,
    ]


def _join(base_path: str, query: str, attempt: Attempt) -> str:
    path, _, own_query = attempt.request.path.partition("?")
    joined = "&".join(part for part in (own_query, query) if part)
    return f"{base_path}{path}?{joined}" if joined else f"{base_path}{path}"
