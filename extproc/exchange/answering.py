"""The response half of an exchange: what comes of an answer that the worker sees.

In: the answer's messages, as events, and the plan it answers. Out: replies, and where the exchange then is (`state`).
An answer in the client's own format passes on by Envoy alone from its headers; all else is put into that format here,
whole or piece by piece. Raises GatewayError: what the client is told instead. Called by the exchange.
"""

from collections.abc import Callable

import msgspec

from extproc import answer
from extproc.adapters.emit import ClientStream
from extproc.answer import Timing
from extproc.body.encoding import Plain
from extproc.body.pieces import Body, joined
from extproc.errors import ProviderError
from extproc.exchange import frames
from extproc.exchange.frames import Event, Kind, Metadata
from extproc.exchange.replies import ATTEMPTS, EVENTS, JSON, TO_CLIENT, answer_headers, as_json, attempt_headers
from extproc.exchange.states import State
from extproc.plan import Attempt, Plan
from extproc.records import NATIVE_FORMATS, Outcome
from extproc.telemetry.content import Said
from extproc.transport.session import Reply
from extproc.wire import H_TARGET, M_ANSWER, M_CONTENT, M_HIDE_USAGE, M_NATIVE, M_OUTCOME, M_RECORD, M_SEVERAL

MAX_ANSWER_BYTES = 64 * 1024 * 1024


class Options(msgspec.Struct, frozen=True):
    """Settings an exchange needs."""

    worker: int  # index of this worker
    native_streams: bool = True
    metadata_in_body: bool = True


class Wanted(msgspec.Struct, frozen=True):
    """What is to be done with an answer, whoever gives it."""

    options: Options
    fields: bool  # a whole one's body is to carry the gateway's
    said: Said | None = None  # where telemetry.content is on: what the client was told

    def native(self, attempt: Attempt) -> bool:
        """Whether an answer to `attempt` is in the client's format, and may pass if nothing else is to be done."""
        return self.options.native_streams and attempt.target.format in NATIVE_FORMATS and not attempt.mended

    def passes(self, plan: Plan) -> bool:
        """Whether nothing will remain to be done with the answer, whichever attempt it comes from: see `passing`."""
        # A large request's room is wanted back as soon as its answer begins, which of one that passes nobody tells.
        return self.native(plan.attempts[0]) and not plan.deadline.hedge and plan.chat.large is None

    def for_envoy(self, plan: Plan) -> Metadata:
        """What envoy/native_answer.lua and the settler are to know of an answer that passes by Envoy alone."""
        ticket = plan.tape.hand_over()
        return {
            **({M_NATIVE: True, M_HIDE_USAGE: not plan.chat.include_usage} if plan.chat.stream else {}),
            **({M_SEVERAL: True} if plan.chat.stream and plan.chat.n > 1 else {}),
            **({M_RECORD: as_json(ticket)} if ticket is not None else {}),
            **({M_CONTENT: True} if self.said is not None else {}),
        }

    def output(self, body: bytes) -> Metadata:
        """What the client got at last, with the pieces before, if traces are to have it."""
        text = self.said.text(body) if self.said is not None else None
        return {} if text is None else {M_ANSWER: text}


class Answering:
    """Of one answer, from its headers on; `timing` is asked when its body is whole."""

    def __init__(self, plan: Plan, wanted: Wanted, headers: dict[str, str], timing: Callable[[], Timing]) -> None:
        index = headers.get(H_TARGET, "")
        self.state = State.WAITING
        self.attempt = plan.answered_by(int(index) if index.isdigit() else None)
        self._plan = plan
        self._wanted = wanted
        self._headers = headers
        self._timing = timing
        self._plain = Plain(headers.get("content-encoding", ""))
        self._pieces: list[Body | memoryview] = []
        self._size = 0
        self._stream: ClientStream | None = None

    @property
    def plain(self) -> bool:
        """Whether it is an answer that was not compressed, as was asked for."""
        return self._headers.get(":status") == "200" and not self._plain.compressed

    def receive(self, event: Event) -> Reply:
        """What to say to one message."""
        if event.kind is Kind.RESPONSE_HEADERS:
            return self._on_headers(event)
        if event.kind is Kind.TRAILERS:
            self.state = State.DONE
            return frames.nothing(event.kind)
        return self._on_piece(event, self._stream) if self._stream else self._on_part(event)

    def _on_headers(self, event: Event) -> Reply:
        plan, attempt, wanted = self._plan, self.attempt, self._wanted
        if attempt.index > 1:
            plan.tape.give_up()  # an answer of a model that stood in for the one asked for
        status = self._headers.get(":status")
        if status == "200" and self._plain.error is not None:
            raise self._plain.error
        if event.end:
            return self._on_whole()
        native = self.plain and wanted.native(attempt)
        if status != "200" or not (plan.chat.stream and answer.may_be_stream(self._headers)):
            self.state = State.BUFFERING
            return None
        if native:
            outrun = plan.outrun(attempt)
            outcome = Outcome(attempt=attempt.index, attempts=len(plan.attempts), native=True, outrun=outrun)
            self.state = State.DONE
            return self._head([], {M_OUTCOME: as_json(outcome), **wanted.for_envoy(plan)})
        self._stream = ClientStream(attempt.adapter, include_usage=plan.chat.include_usage)
        self.state = State.STREAMING
        return self._head([EVENTS], {})

    def _head(self, more: list[tuple[str, str]], metadata: Metadata, *, keep_length: bool = False) -> bytes:
        remove = [name for name in self._headers if name not in TO_CLIENT]
        if not keep_length:
            remove.append("content-length")  # a stream's length changes on its way
        return frames.answer_headers(headers=told(self._plan, self.attempt) + more, remove=remove, metadata=metadata)

    def _on_part(self, event: Event) -> Reply:
        self._pieces.append(event.body)
        self._size += len(event.body)
        if self._size > MAX_ANSWER_BYTES:
            raise too_large()
        return self._on_whole() if event.end else None

    def _on_whole(self) -> tuple[Body, ...]:
        plan, fields = self._plan, self._wanted.fields
        body = joined(self._pieces)
        result = answer.whole(plan, self.attempt, self._headers, body, self._timing(), fields=fields)
        plan.tape.whole(result.body, self.attempt.target, result.outcome, gateway_fields=fields)
        length = ("content-length", str(len(result.body)))
        metadata = {M_OUTCOME: as_json(result.outcome), **self._wanted.output(result.body)}
        self.state = State.DONE
        return whole(self._head([JSON, length], metadata, keep_length=True), len(self._pieces), result.body)

    def _on_piece(self, event: Event, stream: ClientStream) -> Body:
        plan, attempt, said = self._plan, self.attempt, self._wanted.said
        if event.end:
            self.state = State.DONE
        if stream.finished:  # some providers keep the connection open behind their last word
            return frames.answer_body(b"")
        out = stream.feed(self._plain.feed(bytes(event.body)))
        plan.tape.piece(out)
        if said is not None:
            said.piece(out)
        if not (event.end or stream.complete):
            return frames.answer_body(out)
        rest, final = stream.finish(self._plain.error)
        outcome = answer.outcome(plan, attempt, final)
        plan.tape.piece(rest)
        plan.tape.stream(attempt.target, outcome)
        return frames.answer_body(out + rest, metadata={M_OUTCOME: as_json(outcome), **self._wanted.output(rest)})


def too_large() -> ProviderError:
    """The refusal of an answer that cannot be held."""
    return ProviderError(f"The provider's answer is larger than {MAX_ANSWER_BYTES // (1024 * 1024)} MiB.")


def whole(head: bytes, pieces: int, body: bytes) -> tuple[Body, ...]:
    """The replies to an answer that came in so many pieces: nothing for all but the last, and `body` in its place."""
    return head, *(frames.answer_body(b""),) * (pieces - 1), frames.answer_body(body)


def told(plan: Plan, attempt: Attempt | None) -> list[tuple[str, str]]:
    """What the client is told of its request in headers; of the answer too, where there is one."""
    headers = answer_headers(plan)
    if attempt is not None:
        headers += attempt_headers(plan, attempt)
        headers.append((ATTEMPTS, str(len(plan.attempts))))
    return headers
