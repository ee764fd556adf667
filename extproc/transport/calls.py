"""gRPC calls over one HTTP/2 connection, without any I/O: events -> sessions -> replies.

In: what was read. Out: what is to be written, by `take`. A reply that is there at once leaves with the others of the
same read; one that must be awaited runs as a task of its own, and only its own call waits for it. What a peer can make
us hold is bounded: windows for small messages, `credit.Budget` for large ones, one message at a time for each call.
"""

import logging
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

import msgspec

from extproc.body.pieces import LONG_BYTES, Body, Pieces, parts_of
from extproc.transport.connection import Connection
from extproc.transport.credit import Budget, Loan
from extproc.transport.events import Data, Event, Request, Reset
from extproc.transport.fields import Fields
from extproc.transport.message import (
    NOT_GRPC,
    OK_TRAILERS,
    PREFIX,
    RESPONSE,
    MessageReader,
    RpcFault,
    Status,
    framed,
    refusal,
    timeout_s,
    trailers,
)
from extproc.transport.session import Reply, Service, Services, Session
from extproc.transport.stream import Stream

log = logging.getLogger(__name__)

_AT_ONCE = frozenset({bytes, tuple, Pieces, type(None)})  # what a reply is that need not be awaited


class Handle(Protocol):
    """Something that can be called off."""

    def cancel(self) -> object:
        """Call it off."""


class Scheduler(Protocol):
    """The event loop, as far as calls need it."""

    def spawn(self, work: Coroutine[Any, Any, Reply], done: Callable[[Reply | BaseException], None]) -> Handle:
        """Run `work`, then tell `done` what came of it."""

    def wake(self) -> None:
        """There is something to write, outside of `receive`."""

    def later(self, seconds: float, action: Callable[[], None]) -> Handle:
        """Do something after a while."""


class Call:
    """One call: a session, and what waits for it."""

    __slots__ = ("answered", "backlog", "deadline", "ended", "loan", "over", "reader", "session", "stream", "task")

    def __init__(self, stream: Stream, session: Session, limit: int) -> None:
        self.stream = stream
        self.session = session
        self.reader = MessageReader(limit)
        self.backlog: deque[Body] = deque()  # messages that came while one is being answered
        self.task: Handle | None = None  # which awaits a reply
        self.deadline: Handle | None = None
        self.loan: Loan | None = None  # credit for a message larger than the window
        self.answered = False  # the response has begun
        self.ended = False  # the caller has said all
        self.over = False

    @property
    def busy(self) -> bool:
        """Whether the next message has to wait: for a reply, or for the caller to take the last one."""
        return self.task is not None or bool(self.stream.queue)


class _Asked(msgspec.Struct, frozen=True):
    """What a request's fields say. Without a service: how it is refused, or nothing: it is not gRPC."""

    service: Service | None = None
    limit_s: float | None = None
    refusal: bytes = b""


class Calls:
    """All calls of one connection."""

    def __init__(self, connection: Connection, services: Services, scheduler: Scheduler, budget: Budget) -> None:
        self.connection = connection
        self._services = services
        self._scheduler = scheduler
        self._budget = budget
        self._calls: set[Call] = set()

    def __len__(self) -> int:
        return len(self._calls)

    def receive(self, data: bytes) -> None:
        """Take what was read."""
        for event in self.connection.receive(data):
            if type(event) is Data:
                self._on_data(event)
            else:
                self._on_other(event)
        if self.connection.closed:
            self.abandon()

    def go_on(self) -> None:
        """Send more of what was too much for one turn."""
        for event in self.connection.go_on():
            self._on_other(event)

    def abandon(self) -> None:
        """The connection is gone, and with it every call."""
        for call in list(self._calls):
            self._over(call)

    def _on_other(self, event: Event) -> None:
        if type(event) is Request:
            self._on_request(event)
        elif (call := event.stream.call) is not None:
            if type(event) is Reset:
                self._over(call)
            else:
                self._proceed(call)

    def _on_request(self, event: Request) -> None:
        stream, fields = event.stream, event.fields
        asked: _Asked | None = fields.asked
        if asked is None:
            asked = fields.asked = self._asked(fields)
        service = asked.service
        if service is None:
            if asked.refusal:
                self.connection.end(stream, asked.refusal)
            elif event.end:
                self._not_grpc(stream)
            return
        call = stream.call = Call(stream, service.session(), service.max_message)
        self._calls.add(call)
        if asked.limit_s is not None:
            late = RpcFault(Status.DEADLINE_EXCEEDED, "deadline exceeded")
            call.deadline = self._scheduler.later(asked.limit_s, partial(self._fail, call, late))
        if event.end:
            call.ended = True
            self._proceed(call)

    def _asked(self, fields: Fields) -> "_Asked":
        """What a request with these fields is for."""
        if fields.get(b":method") != b"POST" or not fields.get(b"content-type").startswith(b"application/grpc"):
            return _Asked()
        try:
            service = self._services.get(fields.get(b":path").decode("latin-1"))
            if service is None:
                raise RpcFault(Status.UNIMPLEMENTED, "no such method")
            return _Asked(service, timeout_s(fields.get(b"grpc-timeout")))
        except RpcFault as fault:
            return _Asked(refusal=refusal(fault.status, str(fault)))

    def _not_grpc(self, stream: Stream) -> None:
        """Whoever looks in with a browser or a test tool gets an answer too."""
        sender = self.connection.sender
        sender.headers(stream, NOT_GRPC)
        sender.data(stream, b"gRPC only\n")
        self.connection.end(stream, OK_TRAILERS)

    def _on_data(self, event: Data) -> None:
        stream, payload = event.stream, event.payload
        call: Call | None = stream.call
        if call is None or call.over:
            self.connection.consumed(stream, len(payload))
            if event.end and not stream.ended:
                self._not_grpc(stream)
            return
        try:
            messages = call.reader.feed(payload)
        except RpcFault as fault:
            self._fail(call, fault)
            return
        for message in messages:
            if call.over:
                return
            if call.busy or call.backlog:
                call.backlog.append(message)
            else:
                self._handle(call, message)
        if event.end or call.reader.missing:
            call.ended = event.end
            self._proceed(call)

    def _proceed(self, call: Call) -> None:
        """Do what the call can do now: what waits, the end, or asking for the rest of a large message."""
        while call.backlog and not call.busy:
            self._handle(call, call.backlog.popleft())
        if call.over or call.busy:
            return
        if call.ended:
            self._finish(call)
        elif call.loan is None and (need := call.reader.missing - call.stream.credit) > 0:
            call.loan = self._budget.ask(need, partial(self._grant, call.stream, need))

    def _grant(self, stream: Stream, size: int) -> None:
        self.connection.grant(stream, size)
        stream.owed -= size  # the message pays it back
        self._scheduler.wake()

    def _handle(self, call: Call, message: Body) -> None:
        try:
            reply = call.session.receive(message)
        except Exception as error:
            self._broken(call, error)
            return
        if type(reply) in _AT_ONCE:
            self._answer(call, len(message), reply)  # type: ignore[arg-type]
        else:
            call.task = self._scheduler.spawn(reply, partial(self._awaited, call, len(message)))  # type: ignore[arg-type]

    def _awaited(self, call: Call, size: int, outcome: Reply | BaseException) -> None:
        call.task = None
        if call.over:
            _close(call.session)
        elif isinstance(outcome, BaseException):
            self._broken(call, outcome)
        else:
            self._answer(call, size, outcome)
            self._proceed(call)

    def _answer(self, call: Call, size: int, reply: Reply) -> None:
        """One message of `size` bytes is dealt with."""
        if reply is not None:
            self._send(call, reply)
        if call.session.done:
            self._end(call, OK_TRAILERS)
            return
        self.connection.consumed(call.stream, size + PREFIX.size)
        if call.loan is not None:  # it was for this message: none is asked for while another one waits
            self._budget.give_back(call.loan)
            call.loan = None

    def _finish(self, call: Call) -> None:
        if call.reader.partial:
            self._fail(call, RpcFault(Status.INTERNAL, "the last message was cut"))
            return
        try:
            reply = call.session.finish()
        except Exception as error:
            self._broken(call, error)
            return
        if reply is not None:
            self._send(call, reply)
        self._end(call, OK_TRAILERS)

    def _send(self, call: Call, reply: Body | tuple[Body, ...]) -> None:
        sender = self.connection.sender
        if not call.answered:
            call.answered = True
            sender.headers(call.stream, RESPONSE)
        if type(reply) is bytes and len(reply) <= LONG_BYTES:
            sender.data(call.stream, framed(reply))
            return
        parts: list[bytes | memoryview] = []
        for message in reply if isinstance(reply, tuple) else (reply,):
            parts += (PREFIX.pack(0, len(message)), *parts_of(message))
        whole = Pieces(parts)
        if len(whole) > LONG_BYTES:
            sender.long(call.stream, whole.parts)
        else:
            sender.data(call.stream, bytes(whole))

    def _end(self, call: Call, block: bytes) -> None:
        self.connection.end(call.stream, block if call.answered else RESPONSE + block)
        self._over(call)

    def _fail(self, call: Call, fault: RpcFault) -> None:
        if not call.over:
            self._end(call, trailers(fault.status, str(fault)))

    def _broken(self, call: Call, error: BaseException) -> None:
        log.error("call failed", exc_info=error)
        self._fail(call, RpcFault(Status.INTERNAL, "internal error"))

    def _over(self, call: Call) -> None:
        """Nothing more for this call."""
        if call.over:
            return
        call.over = True
        call.stream.call = None  # a ring of references would keep what the call held until a collection, which are few
        self._calls.discard(call)
        call.backlog.clear()
        if call.deadline is not None:
            call.deadline.cancel()
        if call.loan is not None:
            self._budget.give_back(call.loan)
        if call.task is not None:
            call.task.cancel()  # then it is closed
        else:
            _close(call.session)


def _close(session: Session) -> None:
    try:
        session.close()
    except Exception:
        log.exception("call not closed")
