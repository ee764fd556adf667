"""The other end for transport tests: `h2`, a client that is not ours, wired to `Calls` without a socket.

`Pair.run` carries bytes both ways until neither has anything to say; `split` cuts what the client sends into pieces of
that many bytes. Time and tasks are the test's to move.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import h2.config
import h2.connection
import h2.events

from extproc.transport.calls import Calls
from extproc.transport.connection import Connection
from extproc.transport.credit import Budget
from extproc.transport.message import framed
from extproc.transport.session import Reply, Service, Services

HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/echo"),
    (":authority", "worker"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


class Session:
    """Answers each message with itself, until one says `last`; counts its own end."""

    def __init__(self, log: list[str], *, waits: bool = False) -> None:
        self.done = False
        self.closed = 0
        self._log = log
        self._waits = waits

    def receive(self, message: bytes) -> Reply | Coroutine[Any, Any, Reply]:
        if message == b"raise":
            raise RuntimeError("secret")
        return self._later(message) if self._waits else self._reply(message)

    async def _later(self, message: bytes) -> Reply:
        await _Gate()
        if message == b"raise later":
            raise RuntimeError("secret")
        return self._reply(message)

    def _reply(self, message: bytes) -> Reply:
        self.done = message == b"last"
        return None if message == b"silent" else message

    def finish(self) -> Reply:
        self._log.append("finish")
        return b"bye"

    def close(self) -> None:
        self.closed += 1
        self._log.append("close")


class _Gate:
    """Waits once."""

    def __await__(self) -> Iterator[None]:
        yield


class Spawned:
    """A task that goes on when the test says so."""

    def __init__(self, work: Coroutine[Any, Any, Reply], done: Callable[[Reply | BaseException], None]) -> None:
        self._work, self._done = work, done
        self.running = True
        work.send(None)

    def resume(self) -> None:
        self._end(lambda: self._work.send(None))

    def cancel(self) -> None:
        self._end(lambda: self._work.throw(asyncio.CancelledError()))

    def _end(self, step: Callable[[], object]) -> None:
        if not self.running:
            return
        self.running = False
        outcome: Reply | BaseException
        try:
            step()
            raise AssertionError("still waits")
        except StopIteration as stop:
            outcome = stop.value
        except BaseException as error:
            outcome = error
        self._done(outcome)


class Timer:
    def __init__(self, seconds: float, action: Callable[[], None]) -> None:
        self.seconds, self.action, self.cancelled = seconds, action, False

    def cancel(self) -> None:
        self.cancelled = True


class Scheduler:
    def __init__(self) -> None:
        self.spawned: list[Spawned] = []
        self.timers: list[Timer] = []

    def spawn(self, work: Coroutine[Any, Any, Reply], done: Callable[[Reply | BaseException], None]) -> Spawned:
        self.spawned.append(Spawned(work, done))
        return self.spawned[-1]

    def wake(self) -> None:
        """Of no use here: what is said is taken when it is looked for."""

    def later(self, seconds: float, action: Callable[[], None]) -> Timer:
        self.timers.append(Timer(seconds, action))
        return self.timers[-1]


class Pair:
    """A client and a server."""

    def __init__(self, *, budget: int = 1 << 20, limit: int = 1 << 20, split: int = 1 << 30) -> None:
        self.log: list[str] = []
        self.sessions: list[Session] = []
        self.scheduler = Scheduler()
        self.now_s = 0.0
        self.connection = Connection(lambda: self.now_s)
        self.budget = Budget(budget)
        self.calls = Calls(self.connection, self._services(limit), self.scheduler, self.budget)
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.client.initiate_connection()
        self.events: list[Any] = []
        self.data: dict[int, bytes] = defaultdict(bytes)
        self.split = split
        self.reads = True  # gives back the windows of what it got

    def _services(self, limit: int) -> Services:
        def session(*, waits: bool) -> Session:
            self.sessions.append(Session(self.log, waits=waits))
            return self.sessions[-1]

        return {
            "/echo": Service(lambda: session(waits=False), limit),
            "/wait": Service(lambda: session(waits=True), limit),
        }

    def open(self, path: str = "/echo", *more: tuple[str, str], end: bool = False) -> int:
        """A new call."""
        stream: int = self.client.get_next_available_stream_id()
        headers = [(name, path if name == ":path" else value) for name, value in HEADERS]
        self.client.send_headers(stream, [*headers, *more], end_stream=end)
        return stream

    def say(self, stream: int, *messages: bytes, end: bool = False) -> None:
        """Send messages, as the windows allow; `run` in between."""
        data = b"".join(framed(message) for message in messages)
        while data:
            room = min(self.client.local_flow_control_window(stream), self.client.max_outbound_frame_size, len(data))
            assert room > 0 or self.run(), "the window stays shut"
            self.client.send_data(stream, data[:room])
            data = data[room:]
        if end:
            self.client.end_stream(stream)
        self.run()

    def run(self) -> bool:
        """Carry bytes until nobody has any. Returns whether there were some."""
        moved = False
        while True:
            sent = self.client.data_to_send()
            for at in range(0, len(sent), self.split):
                self.calls.receive(sent[at : at + self.split])
            got = b"".join(self.connection.sender.take())
            if self.connection.sender.waiting:
                self.calls.go_on()
            if not sent and not got:
                return moved
            moved = True
            for event in self.client.receive_data(got):
                self._note(event)

    def _note(self, event: Any) -> None:
        self.events.append(event)
        if isinstance(event, h2.events.DataReceived):
            self.data[event.stream_id] += event.data
            if self.reads and event.stream_ended is None:
                self.client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def of(self, stream: int, kind: type) -> list[Any]:
        """Events of a stream."""
        return [event for event in self.events if isinstance(event, kind) and event.stream_id == stream]

    def status(self, stream: int) -> tuple[int, str]:
        """The gRPC status and message that ended a call."""
        ends = self.of(stream, h2.events.TrailersReceived) or self.of(stream, h2.events.ResponseReceived)
        fields = {name.decode(): value.decode() for name, value in ends[-1].headers}
        return int(fields["grpc-status"]), fields.get("grpc-message", "")
