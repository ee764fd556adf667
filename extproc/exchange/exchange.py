"""One exchange with Envoy: a state machine over its messages; `states` has its table.

In: one ext_proc message after the other, as bytes. Out: replies, as bytes. Envoy sends a message's headers and then its
body in pieces, without waiting for replies; what needs the body answers the headers once the body is whole, so that a
request, and mostly an answer, wakes each side once (ADR 19). A request's exchange lives until its answer began, so that
a fallback attempt, which arrives as an exchange of its own, finds it in `Live`.
Free of grpc; called by `extproc.exchange.server`.
"""

import logging
from collections.abc import Coroutine, Mapping
from typing import Any

import msgspec

from extproc import answer, model_list
from extproc.admission import CHAT_PATH, Admission, check_request
from extproc.auth import check_address
from extproc.body.pieces import Body
from extproc.cache.served import ROUTING, Served
from extproc.errors import GatewayError, InvalidRequest
from extproc.exchange import frames, passing
from extproc.exchange.answering import Answering, Options, Wanted, told
from extproc.exchange.frames import Event, Kind, Metadata
from extproc.exchange.live import Live
from extproc.exchange.relay import Relay
from extproc.exchange.replies import (
    JSON,
    as_json,
    chain_headers,
    error_headers,
    immediate,
    not_for_providers,
    refusal,
    routing_headers,
)
from extproc.exchange.states import TRANSITIONS, State
from extproc.exchange.upload import Upload
from extproc.pipeline import Pipeline
from extproc.plan import Attempt, Plan
from extproc.records import ChatRequest
from extproc.telemetry.content import Said, asked
from extproc.telemetry.trace_context import ids
from extproc.transport.session import Reply
from extproc.wire import (
    H_CLUSTER,
    H_FALLBACK,
    H_METADATA,
    H_REQUEST_ID,
    H_TOO_LONG,
    M_CROWDED,
    M_DECISION,
    M_INPUT,
    M_OUTCOME,
    M_PASSING,
    M_ROOMIER,
    M_TARGET,
    M_TEAM,
    M_TOLD,
)

log = logging.getLogger(__name__)
Later = Coroutine[Any, Any, Body]


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
        self._headers: dict[str, str] = {}  # of the request
        self._upload: Upload | None = None
        self._wanted = Wanted(options, options.metadata_in_body)
        self._answering: Answering | None = None
        self._relay: Relay | None = None
        self._own_ns = 0  # gateway's own time so far

    def receive(self, data: Body) -> Reply | Later:
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
        if self._upload is not None:
            self._upload.end()
        if self._plan is not None:
            self._live.remove(self._plan)
            self._plan.tape.give_up()
        self._answering = None  # which knows us: a ring would keep large bodies until the next collection
        return self._pipeline.abandoned(undecided) if undecided is not None else None

    def _react(self, event: Event) -> Reply | Later:
        if event.kind is Kind.REQUEST_HEADERS:
            return self._on_request_headers(event)
        if self._relay is not None:
            return self._follow(self._relay, event)
        if self.state is State.WAITING and event.kind is Kind.REQUEST_BODY:
            return None  # the end of a body that was whole before it
        if event.kind is Kind.REQUEST_BODY:
            assert self._upload is not None  # noqa: S101 - the table leads here only from READING
            return self._decide(self._upload) if self._upload.add(event.body, end=event.end) else None
        if self._plan is None:
            return self._on_own_answer()
        if self._answering is None:
            self._live.remove(self._plan)
            self._answering = Answering(self._plan, self._wanted, event.headers, self._timing)
            if self._plan.chat.stream and self._answering.plain:
                self._live.compress.discard(self._answering.attempt.target.provider)  # it no longer does
        return self._follow(self._answering, event)

    def _follow(self, half: Answering | Relay, event: Event) -> Reply:
        """Leave a message of the response to who knows of it."""
        try:
            return half.receive(event)
        finally:
            self.state = half.state

    # --- the request ---------------------------------------------------------------------------------------------

    def _on_request_headers(self, event: Event) -> Reply | Later:
        headers = event.headers
        if H_FALLBACK in headers:
            return self._on_fallback(headers)
        self._headers = headers
        if H_METADATA in headers:
            self._wanted = msgspec.structs.replace(self._wanted, fields=headers[H_METADATA] == "body")
        self._request_id = headers.get(H_REQUEST_ID, "")
        self._admission = admission = self._pipeline.authenticate(headers)
        if admission.team.networks:
            check_address(admission.team.networks, headers)
        check_request(headers)
        if admission.path != CHAT_PATH:
            return self._models(admission)
        if event.end:
            raise InvalidRequest("The request has no body; send a JSON object.")
        length = headers.get("content-length", "")
        self._upload = Upload(self._live.room, admission.team.id, int(length) if length.isdigit() else -1)
        self.state = State.READING
        return None

    async def _models(self, admission: Admission) -> bytes:
        self.state = State.DONE
        try:
            body = model_list.answer(admission.catalog, admission.team, admission.path)
        except GatewayError as error:
            return await self._refuse(error)
        return immediate(200, body, [JSON, *self._told(), *await self._limits()], {}, "models")

    async def _decide(self, upload: Upload) -> Body:
        began_ns = self._pipeline.clock.mono_ns()
        try:
            return await self._on_request_body(upload.whole())
        except Exception as error:
            return await self._refuse(error)
        finally:
            upload.end()
            self._own_ns += self._pipeline.clock.mono_ns() - began_ns

    async def _on_request_body(self, body: bytes) -> Body:
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
            **self._pass(plan, attempt),
        }
        said = frames.replace(
            headers=chain_headers(plan, attempt, self._options.worker),
            remove=not_for_providers(tuple(self._headers)),
            body=attempt.request.body,
            metadata=metadata,
        )
        plan.keep_little()
        self.state = State.DONE if plan.passes else State.WAITING
        if plan.passes:
            self._plan = None  # no longer ours: it outlives this exchange
        return said

    def _pass(self, plan: Plan, attempt: Attempt) -> Metadata:
        """What Envoy must know if the answer is to pass by it alone: `plan.passes`."""
        if not self._wanted.passes(plan) or attempt.target.provider in self._live.compress:
            return {}
        plan.passes = self._live.pass_on(plan, self._pipeline.clock.mono_ns())
        if not plan.passes:
            return {M_CROWDED: True}
        plan.fields = self._wanted.fields and not plan.chat.stream
        noted = passing.notes_of_first(plan, attempt, self._options.worker, self._live.token)
        return {M_PASSING: noted, **self._wanted.for_envoy(plan)}

    def _input(self, chat: ChatRequest) -> Metadata:
        """What was asked, if traces are to have it."""
        if self._admission is None or not self._admission.catalog.content:
            return {}
        self._wanted = msgspec.structs.replace(self._wanted, said=Said())
        return {M_INPUT: asked(chat.body)}

    def _from_cache(self, served: Served) -> bytes:
        timing = self._timing()
        body = served.body(fields=self._wanted.fields, gateway_us=served.decision.decided_us, total_us=timing.total_us)
        metadata = {
            M_TEAM: served.decision.team_id,
            M_DECISION: as_json(served.decision),
            M_OUTCOME: as_json(served.outcome),
            **self._input(served.chat),
            **self._wanted.output(body),
        }
        return immediate(200, body, served.answer_headers(), metadata, ROUTING)

    def _on_fallback(self, headers: Mapping[str, str]) -> Body:
        """An attempt after the first: Envoy's loopback asks for the same request in the next provider's terms."""
        self.state = State.DONE
        plan = self._live.find(headers.get(H_REQUEST_ID, ""))
        attempt = plan.following(self._pipeline.clock.mono_ns(), larger=H_TOO_LONG in headers)
        if plan.passes:
            self._live.pass_on(plan, self._pipeline.clock.mono_ns())
            if not self._wanted.native(attempt):
                self._relay = Relay(plan, attempt)
                self.state = self._relay.state
        wanted = [
            *routing_headers(plan, attempt),
            (H_CLUSTER, plan.endpoints[attempt.target.provider].cluster),
        ]
        stale = {name for tried in plan.attempts for name, _ in tried.request.headers}
        said = frames.replace(
            headers=wanted,
            remove=sorted(stale - {name for name, _ in wanted}),
            body=attempt.request.body,
            metadata={M_TARGET: str(attempt.index), M_TOLD: passing.note_of_next(plan, attempt, self._live.token)},
        )
        plan.keep_little()
        return said

    # --- the response --------------------------------------------------------------------------------------------

    async def _on_own_answer(self) -> bytes:
        """Envoy's own, to a request that never got decided: its body was too slow."""
        assert self._admission is not None  # noqa: S101 - the table leads here only from READING
        self.state = State.DONE
        decision = self._admission.refused()
        headers = [*self._told(), *await self._limits()]
        return frames.answer_headers(
            headers=headers, remove=(), metadata={M_TEAM: decision.team_id, M_DECISION: as_json(decision)}
        )

    # --- what both share -----------------------------------------------------------------------------------------

    def _told(self, attempt: Attempt | None = None) -> list[tuple[str, str]]:
        return told(self._plan, attempt) if self._plan else [("x-gateway-request-id", self._request_id)]

    async def _limits(self) -> tuple[tuple[str, str], ...]:
        """How the team's limits stand, where no hold has told."""
        return () if self._admission is None or self._plan else await self._pipeline.limits(self._admission)

    async def _refuse(self, error: Exception) -> bytes:
        self.state = State.DONE
        if not isinstance(error, GatewayError):
            traceparent = self._admission.traceparent if self._admission else None
            log.error("exchange failed", extra=ids(self._request_id, traceparent), exc_info=error)
            error = GatewayError("The gateway failed to handle this request.")
        plan, attempt = self._plan, self._answering.attempt if self._answering else None
        headers = [*error_headers(error), *self._told(attempt), *(error.headers or await self._limits())]
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
