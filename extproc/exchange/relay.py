"""A stand-in's answer in another format, behind the loopback: made what a provider of the client's format would say.

In: messages of the response, as events. Out: replies. What an answer that passes by Envoy alone (`passing`) still needs
where it comes from an attempt that speaks another format than the first: the ingress sees no difference. Errors go on
as they are; what they become is for `passing`. Called by the exchange of that attempt.
"""

from extproc import answer
from extproc.adapters.emit import ClientStream
from extproc.answer import NOT_TIMED
from extproc.body.encoding import Plain
from extproc.body.pieces import Body, joined
from extproc.errors import GatewayError
from extproc.exchange import frames
from extproc.exchange.answering import MAX_ANSWER_BYTES, too_large, whole
from extproc.exchange.frames import Event, Kind
from extproc.exchange.replies import EVENTS, JSON, error_headers, immediate
from extproc.exchange.states import State
from extproc.plan import Attempt, Plan
from extproc.transport.session import Reply


class Relay:
    """Of one attempt. Once it is done, the rest of its answer passes as it is."""

    def __init__(self, plan: Plan, attempt: Attempt) -> None:
        self.state = State.RELAYING
        self._plan = plan
        self._attempt = attempt
        self._headers: dict[str, str] = {}
        self._pieces: list[Body | memoryview] = []
        self._size = 0
        self._plain = Plain("")
        self._stream: ClientStream | None = None

    def receive(self, event: Event) -> Reply:
        """What to say to one message."""
        try:
            if event.kind is Kind.RESPONSE_HEADERS:
                return self._on_headers(event)
            if event.kind is Kind.RESPONSE_BODY and self._headers:
                return self._on_piece(event, self._stream) if self._stream else self._on_part(event)
        except GatewayError as error:
            self.state = State.DONE
            return immediate(error.http_status, error.body(), error_headers(error), {}, error.code)
        self.state = State.DONE
        return frames.nothing(event.kind)

    def _on_headers(self, event: Event) -> Reply:
        self._headers = headers = event.headers
        self._attempt.answered = headers.get(":status") == "200"
        kind = headers.get("content-type", "").lower()
        expected = answer.may_be_stream(headers) if self._plan.chat.stream else kind.startswith(JSON[1])
        if headers.get(":status") != "200" or event.end or not expected:
            self.state = State.DONE  # not what was asked for
            return frames.nothing(event.kind)
        if not self._plan.chat.stream:
            return None
        self._plain = Plain(headers.get("content-encoding", ""))
        if self._plain.error is not None:
            raise self._plain.error
        self._stream = ClientStream(self._attempt.adapter, include_usage=True, null_usage=self._plan.chat.include_usage)
        return self._head(EVENTS)

    def _head(self, kind: tuple[str, str]) -> bytes:
        remove = ("content-length", "content-encoding")
        return frames.answer_headers(headers=[kind], remove=remove, metadata={})

    def _on_part(self, event: Event) -> Reply:
        self._pieces.append(event.body)
        self._size += len(event.body)
        if self._size > MAX_ANSWER_BYTES:
            raise too_large()
        if not event.end:
            return None
        self.state = State.DONE
        body = joined(self._pieces)
        read = answer.whole(self._plan, self._attempt, self._headers, body, NOT_TIMED, fields=False)
        self._plan.translated(self._attempt)  # one without usage, or too long for Envoy, comes back
        return whole(self._head(JSON), len(self._pieces), read.body)

    def _on_piece(self, event: Event, stream: ClientStream) -> Reply:
        if event.end:
            self.state = State.DONE
        if stream.finished:
            return frames.answer_body(b"")
        out = stream.feed(self._plain.feed(bytes(event.body)))
        if event.end or stream.complete:
            out += stream.finish(self._plain.error)[0]
        return frames.answer_body(out)
