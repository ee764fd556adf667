"""One exchange with Envoy: a state machine over its messages; `states` has its table.

In: one ext_proc message after the other, as bytes. Out: replies, as bytes. Envoy sends a message's headers and then its
body in pieces, without waiting for replies; what needs the body answers the headers once the body is whole, so that a
request, and mostly an answer, wakes each side once (ADR 19). A request's exchange lives until its answer began, so that
a fallback attempt, which arrives as an exchange of its own, finds it in `Live`.
Free of grpc; called by `extproc.server`.
"""

import logging
from collections.abc import Coroutine, Mapping
from typing import Any

import msgspec

from extproc import answer, frames, models, passing
from extproc.adapters.emit import ClientStream
from extproc.auth import check_address
from extproc.cache.served import ROUTING, Served
from extproc.encoding import Plain
from extproc.errors import GatewayError, InvalidRequest, ProviderError
from extproc.frames import Event, Kind, Metadata
from extproc.live import Live
from extproc.pipeline import CHAT_PATH, Admission, Pipeline, check_request, too_large
from extproc.plan import Attempt, Plan
from extproc.records import NATIVE_FORMATS, ChatRequest, Outcome
from extproc.relay import Relay
from extproc.replies import (
    ATTEMPTS,
    EVENTS,
    JSON,
    TO_CLIENT,
    TO_PROVIDER,
    answer_headers,
    as_json,
    attempt_headers,
    chain_headers,
    error_headers,
    immediate,
    refusal,
    routing_headers,
)
from extproc.states import TRANSITIONS, State
from extproc.telemetry.content import Said, asked
from extproc.telemetry.trace_context import ids
from extproc.transport.session import Reply
from extproc.wire import (
    H_CLUSTER,
    H_FALLBACK,
    H_METADATA,
    H_REQUEST_ID,
    H_TARGET,
    H_TOO_LONG,
    M_ANSWER,
    M_CONTENT,
    M_DECISION,
    M_HIDE_USAGE,
    M_INPUT,
    M_NATIVE,
    M_OUTCOME,
    M_PASSING,
    M_RECORD,
    M_ROOMIER,
    M_TARGET,
    M_TEAM,
    M_TOLD,
    MAX_REQUEST_BYTES,
)

log = logging.getLogger(__name__)
Later = Coroutine[Any, Any, bytes]
_MAX_ANSWER_BYTES = 64 * 1024 * 1024


class Options(msgspec.Struct, frozen=True):
    """Settings an exchange needs."""

    worker: int  # index of this worker
    native_streams: bool = True
    metadata_in_body: bool = True
    native_answers: bool = False  # Envoy reads the usage of whole answers too, so they may pass by it alone


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
        self._pieces: list[bytes | memoryview] = []  # of the body that is coming
        self._size = 0  # of the pieces
        self._stream: ClientStream | None = None
        self._relay: Relay | None = None
        self._plain = Plain("")
        self._attempt: Attempt | None = None
        self._fields = options.metadata_in_body  # whether the answer's body is to carry the gateway's fields
        self._own_ns = 0  # gateway's own time so far
        self._said: Said | None = None  # where telemetry.content is on: what the client was told

    def receive(self, data: bytes) -> Reply | Later:
        """What to say to one message, or what has to be awaited for it. Never raises on what Envoy or a client sent."""
        began_ns = self._pipeline.clock.mono_ns()
        try:
            event = frames.parse(data)
            if (self.state, event.kind) not in TRANSITIONS:
                self.state = State.DONE
                return frames.nothing(event.kind)
            return self._react(event)
        except Exception as error:
            return self._refuse(error)
        finally:
            self._own_ns += self._pipeline.clock.mono_ns() - began_ns

    def close(self) -> Coroutine[Any, Any, None] | None:
        """Envoy ended the stream: the client left, the answer is through, or there is nothing more to ask.

        Returns what is still to be said of a request that ended before it was decided.
        """
        undecided = self._admission if self.state is State.READING else None
        self.state = State.DONE
        if self._plan is not None:
            self._live.remove(self._plan)
            self._plan.tape.give_up()
        return self._pipeline.left(undecided) if undecided is not None else None

    def _react(self, event: Event) -> Reply | Later:
        if event.kind is Kind.REQUEST_HEADERS:
            return self._on_request_headers(event)
        if self._relay is not None:
            return self._on_relayed(event, self._relay)
        if event.kind is Kind.REQUEST_BODY:
            return self._decide(b"".join(self._pieces)) if self._gather(event) else None
        if event.kind is Kind.RESPONSE_HEADERS:
            return self._on_own_answer() if self._plan is None else self._on_response_headers(event, self._plan)
        if event.kind is Kind.TRAILERS:
            self.state = State.DONE
            return frames.nothing(event.kind)
        if self.state is State.STREAMING:
            return self._on_piece(event)
        return self._on_whole_body(b"".join(self._pieces)) if self._gather(event) else None

    def _gather(self, event: Event) -> bool:
        """Keep a piece of a body. Returns whether it is whole. Raises RequestTooLarge, ProviderError."""
        self._pieces.append(event.body)
        self._size += len(event.body)
        if self._size > MAX_REQUEST_BYTES and event.kind is Kind.REQUEST_BODY:
            raise too_large()
        if self._size > _MAX_ANSWER_BYTES:
            raise ProviderError("The provider's answer is larger than this gateway accepts.")
        return event.end

    # --- the request ---------------------------------------------------------------------------------------------

    def _on_request_headers(self, event: Event) -> Reply | Later:
        headers = event.headers
        if H_FALLBACK in headers:
            return self._on_fallback(headers)
        self._headers = headers
        if H_METADATA in headers:
            self._fields = headers[H_METADATA] == "body"
        self._request_id = headers.get(H_REQUEST_ID, "")
        self._admission = admission = self._pipeline.authenticate(headers)
        if admission.team.networks:
            check_address(admission.team.networks, headers)
        check_request(headers)
        if admission.path != CHAT_PATH:
            return self._models(admission)
        if event.end:
            raise InvalidRequest("The request has no body; send a JSON object.")
        self.state = State.READING
        return None

    async def _models(self, admission: Admission) -> bytes:
        self.state = State.DONE
        try:
            body = models.answer(admission.catalog, admission.team, admission.path)
        except GatewayError as error:
            return await self._refuse(error)
        return immediate(200, body, [JSON, *self._answer_headers(None), *await self._limits()], {}, "models")

    async def _decide(self, body: bytes) -> bytes:
        began_ns = self._pipeline.clock.mono_ns()
        self._pieces, self._size = [], 0
        try:
            return await self._on_request_body(body)
        except Exception as error:
            return await self._refuse(error)
        finally:
            self._own_ns += self._pipeline.clock.mono_ns() - began_ns

    async def _on_request_body(self, body: bytes) -> bytes:
        assert self._admission is not None  # noqa: S101 - the table leads here only from READING
        decided = await self._pipeline.decide(self._admission, body)
        if isinstance(decided, Served):
            if decided.hit.check:
                self._pipeline.check(self._headers, body)
            self.state = State.DONE
            return self._from_cache(decided)
        self._plan = plan = decided
        self._live.add(plan)
        attempt = plan.first(self._pipeline.clock.mono_ns())
        metadata: Metadata = {
            M_TEAM: plan.decision.team_id,
            M_DECISION: as_json(plan.decision),
            **self._input(plan.chat),
            **({M_ROOMIER: True} if plan.roomier else {}),
        }
        headers = chain_headers(plan, attempt, self._options.worker)
        keep = {name for name, _ in headers} | TO_PROVIDER
        plan.passes = self._may_pass(plan)
        if plan.passes:
            metadata = {**metadata, M_PASSING: passing.notes(plan, attempt, self._options.worker, self._live.token)}
            if plan.chat.stream:
                metadata = {**metadata, **self._native_stream(plan)}
        said = frames.replace(
            headers=headers,
            remove=[name for name in self._headers if name not in keep and name[0] != ":"],
            body=attempt.request.body,
            metadata=metadata,
        )
        plan.keep_little()
        self.state = State.DONE if plan.passes else State.WAITING
        if plan.passes:
            self._live.pass_on(plan, self._pipeline.clock.mono_ns())
            self._plan = None  # no longer ours: it outlives this exchange
        return said

    def _may_pass(self, plan: Plan) -> bool:
        """Whether nothing will remain to be done with the answer, whichever attempt it comes from."""
        if plan.deadline.hedge or not self._native(plan.attempts[0]):
            return False
        return plan.chat.stream or self._passes_whole(plan)

    def _input(self, chat: ChatRequest) -> Metadata:
        """What was asked, if traces are to have it."""
        if self._admission is None or not self._admission.catalog.content:
            return {}
        self._said = Said()
        return {M_INPUT: asked(chat.body)}

    def _output(self, body: bytes) -> Metadata:
        """What the client got at last, with the pieces before, if traces are to have it."""
        text = self._said.text(body) if self._said is not None else None
        return {} if text is None else {M_ANSWER: text}

    def _from_cache(self, served: Served) -> bytes:
        timing = self._timing()
        body = served.body(fields=self._fields, gateway_us=served.decision.decided_us, total_us=timing.total_us)
        metadata = {
            M_TEAM: served.decision.team_id,
            M_DECISION: as_json(served.decision),
            M_OUTCOME: as_json(served.outcome),
            **self._input(served.chat),
            **self._output(body),
        }
        return immediate(200, body, served.answer_headers(), metadata, ROUTING)

    def _on_fallback(self, headers: Mapping[str, str]) -> bytes:
        """An attempt after the first: Envoy's loopback asks for the same request in the next provider's terms."""
        self.state = State.DONE
        plan = self._live.find(headers.get(H_REQUEST_ID, ""))
        attempt = plan.following(self._pipeline.clock.mono_ns(), larger=H_TOO_LONG in headers)
        if plan.passes and not self._native(attempt):
            self._relay = Relay(plan, attempt)
            self.state = State.RELAYING
        wanted = [
            *routing_headers(plan, attempt),
            (H_CLUSTER, plan.endpoints[attempt.target.provider].cluster),
        ]
        stale = {name for tried in plan.attempts for name, _ in tried.request.headers}
        said = frames.replace(
            headers=wanted,
            remove=sorted(stale - {name for name, _ in wanted}),
            body=attempt.request.body,
            metadata={M_TARGET: str(attempt.index), M_TOLD: passing.note(plan, attempt, self._live.token)},
        )
        plan.keep_little()
        return said

    def _on_relayed(self, event: Event, relay: Relay) -> Reply:
        said = relay.receive(event)
        if relay.done:
            self.state = State.DONE
        return said

    def _native(self, attempt: Attempt) -> bool:
        return self._options.native_streams and attempt.target.format in NATIVE_FORMATS

    def _native_stream(self, plan: Plan) -> Metadata:
        """What envoy/native_stream.lua and the settler are to know of a stream that passes by Envoy alone."""
        ticket = plan.tape.hand_over()
        return {
            M_NATIVE: True,
            M_HIDE_USAGE: not plan.chat.include_usage,
            **({M_RECORD: as_json(ticket)} if ticket is not None else {}),
            **({M_CONTENT: True} if self._said is not None else {}),
        }

    # --- the response --------------------------------------------------------------------------------------------

    async def _on_own_answer(self) -> bytes:
        """Envoy's own, to a request that never got decided: its body was too slow."""
        self.state = State.DONE
        headers = [*self._answer_headers(None), *await self._limits()]
        return frames.answer_headers(headers=headers, remove=(), metadata={})

    def _on_response_headers(self, event: Event, plan: Plan) -> Reply:
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
            return self._on_whole_body(b"")
        if status == 200 and is_json and not plain.compressed and self._native(attempt) and self._passes_whole(plan):
            outcome = Outcome(attempt=attempt.index, attempts=len(plan.attempts), native=True, complete=True)
            self.state = State.DONE
            return self._pass_headers(attempt, [], {M_OUTCOME: as_json(outcome)}, keep_length=True)
        if not streamed:
            self.state = State.BUFFERING
            return None
        if self._native(attempt) and not plain.compressed:
            outcome = Outcome(
                attempt=attempt.index, attempts=len(plan.attempts), native=True, outrun=plan.outrun(attempt)
            )
            self.state = State.DONE
            return self._pass_headers(attempt, [], {M_OUTCOME: as_json(outcome), **self._native_stream(plan)})
        self._stream = ClientStream(attempt.adapter, include_usage=plan.chat.include_usage)
        self.state = State.STREAMING
        return self._pass_headers(attempt, [EVENTS], {})

    def _passes_whole(self, plan: Plan) -> bool:
        """Whether nothing remains to be done with a whole answer in the client's own format."""
        mine = self._fields or plan.chat.stream or plan.tape.recording or self._said is not None
        return self._options.native_answers and not mine

    def _pass_headers(
        self, attempt: Attempt, more: list[tuple[str, str]], metadata: Metadata, *, keep_length: bool = False
    ) -> bytes:
        remove = [name for name in self._headers if name not in TO_CLIENT]
        if not keep_length:
            remove.append("content-length")  # a stream's length changes on its way
        return frames.answer_headers(headers=self._answer_headers(attempt) + more, remove=remove, metadata=metadata)

    def _on_whole_body(self, body: bytes) -> tuple[bytes, ...]:
        plan, attempt = self._plan, self._attempt
        assert plan is not None  # noqa: S101 - the table leads here only from WAITING
        assert attempt is not None  # noqa: S101
        result = answer.whole(plan, attempt, self._headers, body, self._timing(), fields=self._fields)
        plan.tape.whole(result.body, attempt.target, result.outcome, gateway_fields=self._fields)
        length = ("content-length", str(len(result.body)))
        metadata = {M_OUTCOME: as_json(result.outcome), **self._output(result.body)}
        head = self._pass_headers(attempt, [JSON, length], metadata, keep_length=True)
        self.state = State.DONE
        # Envoy wants a reply to each piece: nothing for all but the last, and the answer in its place.
        nothing = (frames.answer_body(b""),) * (len(self._pieces) - 1)
        return head, *nothing, frames.answer_body(result.body)

    def _on_piece(self, event: Event) -> bytes:
        stream, plan, attempt = self._stream, self._plan, self._attempt
        assert stream is not None  # noqa: S101 - the table leads here only from STREAMING
        assert plan is not None  # noqa: S101
        assert attempt is not None  # noqa: S101
        if event.end:
            self.state = State.DONE
        if stream.finished:  # some providers keep the connection open behind their last word
            return frames.answer_body(b"")
        out = stream.feed(self._plain.feed(bytes(event.body)))
        plan.tape.piece(out)
        if self._said is not None:
            self._said.piece(out)
        if not (event.end or stream.complete):
            return frames.answer_body(out)
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
        return frames.answer_body(out + rest, metadata={M_OUTCOME: as_json(outcome), **self._output(rest)})

    # --- what both share -----------------------------------------------------------------------------------------

    def _answer_headers(self, attempt: Attempt | None) -> list[tuple[str, str]]:
        if self._plan is None:
            return [("x-gateway-request-id", self._request_id)]
        headers = answer_headers(self._plan)
        if attempt is not None:
            headers += attempt_headers(self._plan, attempt)
            headers.append((ATTEMPTS, str(len(self._plan.attempts))))
        return headers

    async def _limits(self) -> tuple[tuple[str, str], ...]:
        """How the team's limits stand, where no hold has told."""
        return () if self._admission is None or self._plan else await self._pipeline.limits(self._admission)

    async def _refuse(self, error: Exception) -> bytes:
        self.state = State.DONE
        if not isinstance(error, GatewayError):
            traceparent = self._admission.traceparent if self._admission else None
            log.error("exchange failed", extra=ids(self._request_id, traceparent), exc_info=error)
            error = GatewayError("The gateway failed to handle this request.")
        plan, attempt = self._plan, self._attempt
        headers = [*error_headers(error), *self._answer_headers(attempt), *(error.headers or await self._limits())]
        metadata: dict[str, str | bool] = {}
        if self._admission:
            decision = plan.decision if plan else self._admission.refused()
            metadata = {
                M_TEAM: decision.team_id,
                M_DECISION: as_json(decision),
                M_OUTCOME: as_json(refusal(error, plan, attempt)),
            }
        return immediate(error.http_status, error.body(), headers, metadata, error.code)

    def _timing(self) -> answer.Timing:
        assert self._admission is not None  # noqa: S101
        total_ns = self._pipeline.clock.mono_ns() - self._admission.began_ns
        return answer.Timing(gateway_us=self._own_ns // 1000, total_us=total_ns // 1000)
