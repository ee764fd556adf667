"""One client's connection to the simulator: bytes in, plans played, sockets broken where a fault says so.

In: what arrives. Out: what the simulator's `Plan` says, at its times.
"""

import asyncio
import socket
import struct
from typing import cast

from control.demo import wire
from control.demo.simulator import Simulator, format_of
from control.demo.stats import Record
from control.demo.wire import Plan, Request

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
EARLY_SCAN_BYTES = 64 * 1024  # how much of an unfinished body is searched for an early_answer marker
BATCH_PARTS = 512  # writes joined into one when there is no gap between them
RESET_DELAY_S = 0.02  # between the last write and the RST, which would overtake data still being sent


class Connection(asyncio.Protocol):
    """One client connection: reads a request, plays its plan, and again."""

    def __init__(self, simulator: Simulator, open_ones: "set[Connection]") -> None:
        self._simulator = simulator
        self._open_ones = open_ones  # this one is in it while it lasts
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._request: Request | None = None  # whose head has been read
        self._body = _Body(0)
        self._record: Record | None = None
        self._early = False  # the request was answered before its body was read
        self._plan: Plan | None = None  # being played
        self._next = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._paused = False
        self._writable = True
        self._stalled = False  # a write is due and waits until the client reads

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._open_ones.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._open_ones.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._record is not None:
            self._finish("aborted_by_client")

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._stalled:
            self._stalled = False
            self._step()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._plan is None or self._early:
            self._advance()
        elif len(self._buffer) > MAX_HEAD_BYTES and not self._paused:
            self._paused = True  # a pipelined request waits for the answer before it
            self._transport.pause_reading()

    def close(self) -> None:
        """Drop the connection at once."""
        self._transport.abort()

    # -- reading

    def _advance(self) -> None:
        """Read on: the head, then the body, then answer."""
        if self._request is None and not self._read_head():
            return
        request = self._request
        if request is None:
            return
        try:
            whole = self._body.feed(self._buffer)
        except ValueError:
            self._refuse(400)
            return
        if not whole:
            self._look_for_marker(request)
        elif self._early:
            self._early, self._request = False, None
            if self._plan is None and self._buffer:
                self._advance()
        else:
            self._answer(request)

    def _answer(self, request: Request) -> None:
        self._request = None
        if self._body.too_large:
            self._play(self._simulator.too_large(request))
            return
        body = self._body.take()
        record = self._record = self._record or Record(head=b"")
        record.body_bytes = len(body)
        if self._simulator.options.record_bodies and body:
            record.body = body
        self._play(self._simulator.answer(request, body, record))

    def _read_head(self) -> bool:
        """Whether a whole head was there."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                self._refuse(431)
            return False
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        try:
            request = wire.parse_head(head)
            self._body = _Body.of(request)
        except ValueError:
            self._refuse(400)
            return False
        self._begin(request, head)
        return True

    def _begin(self, request: Request, head: bytes) -> None:
        self._request = request
        self._record = Record(head=head)
        fmt = format_of(request)
        if fmt is not None:
            self._record.format = fmt.name
            self._simulator.stats.begin(self._record)
            self._play_early(self._simulator.early(request, fmt))
        if "expect" in request.headers and not self._early:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _look_for_marker(self, request: Request) -> None:
        fmt = format_of(request)
        if fmt is not None and not self._early:
            seen = self._body.seen(self._buffer, EARLY_SCAN_BYTES)
            self._play_early(self._simulator.early_by_marker(fmt, seen))

    def _play_early(self, plan: Plan | None) -> None:
        if plan is not None:
            self._early = True
            self._play(plan)

    def _refuse(self, status: int) -> None:
        self._buffer.clear()
        self._transport.write(b"HTTP/1.1 %d Bad\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status)
        self._transport.close()

    # -- writing

    def _play(self, plan: Plan) -> None:
        self._plan = plan
        self._next = 0
        if self._record is not None:
            self._record.sent_weights = plan.weights
            self._record.status = plan.status
        if plan.first_byte_s > 0:
            self._timer = self._loop.call_later(plan.first_byte_s, self._start)
        else:
            self._start()

    def _start(self) -> None:
        plan = self._plan
        if plan is None:
            return
        if plan.gap_s is None and len(plan.parts) <= BATCH_PARTS:  # the common case: one write
            self._write(b"".join((plan.head, *plan.parts)))
            self._next = len(plan.parts)
            self._end()
            return
        first = plan.parts[:1]
        self._write(b"".join((plan.head, *first)))
        self._next = len(first)
        self._due = self._loop.time()
        self._schedule(plan)

    def _schedule(self, plan: Plan) -> None:
        """The next write, its gap after the one before; late ones follow at once, so that the rate holds."""
        if self._next >= len(plan.parts):
            self._end()
        elif plan.gap_s:
            self._due += plan.gap_s
            self._timer = self._loop.call_at(self._due, self._step)
        else:
            self._timer = self._loop.call_soon(self._step)

    def _step(self) -> None:
        plan = self._plan
        if plan is None or self._transport.is_closing():
            return
        if not self._writable:
            self._stalled = True
            return
        count = 1 if plan.gap_s is not None else BATCH_PARTS
        self._write(b"".join(plan.parts[self._next : self._next + count]))
        self._next = min(self._next + count, len(plan.parts))
        self._schedule(plan)

    def _write(self, data: bytes) -> None:
        if data:
            self._transport.write(data)
            if self._record is not None:
                self._record.bytes_sent += len(data)

    def _end(self) -> None:
        """All parts are written: keep the connection, or end it as planned."""
        plan = self._plan
        if plan is None or plan.end == "hang":
            return
        if plan.end == "reset":
            self._timer = self._loop.call_later(RESET_DELAY_S if plan.head else 0, self._reset)
            return
        self._finish("completed" if plan.whole else "faulted")
        if plan.end == "close":
            self._transport.close()
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._buffer and not self._early:
            self._timer = self._loop.call_soon(self._advance)

    def _reset(self) -> None:
        """RST instead of FIN (on a unix socket there is no such thing: the peer sees the end)."""
        self._finish("faulted")
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _finish(self, outcome: str) -> None:
        record, plan = self._record, self._plan
        self._record = self._plan = None
        if record is None:
            return
        record.sent_parts = self._next if plan is not None else 0
        if record.format:
            self._simulator.stats.end(record, outcome)


class _Body:
    """A request body being read: by length, or in chunks."""

    def __init__(self, length: int | None) -> None:
        self._length = length  # None: chunked
        self._data = bytearray()
        self.too_large = length is not None and length > MAX_BODY_BYTES

    @classmethod
    def of(cls, request: Request) -> "_Body":
        if "transfer-encoding" in request.headers:
            return cls(None)
        length = int(request.headers.get("content-length", "0"))
        if length < 0:
            raise ValueError("negative content-length")
        return cls(length)

    def feed(self, buffer: bytearray) -> bool:
        """Take what belongs to the body out of `buffer`; whether the body is whole (or too large to go on)."""
        if self.too_large:
            return True
        if self._length is not None:
            if len(buffer) < self._length:
                return False
            self._data = buffer[: self._length]
            del buffer[: self._length]
            return True
        done = self._feed_chunks(buffer)
        self.too_large = len(self._data) > MAX_BODY_BYTES
        return done or self.too_large

    def _feed_chunks(self, buffer: bytearray) -> bool:
        while (end := buffer.find(b"\r\n")) >= 0:
            size = int(bytes(buffer[:end]).partition(b";")[0], 16)
            if len(buffer) < end + 2 + size + 2:
                return False
            self._data += buffer[end + 2 : end + 2 + size]
            del buffer[: end + 2 + size + 2]
            if size == 0:
                return True
        return False

    def seen(self, buffer: bytearray, limit: int) -> bytes:
        """The beginning of an unfinished body, up to `limit` bytes."""
        return bytes((self._data or buffer)[:limit])

    def take(self) -> bytes:
        """The whole body."""
        data, self._data = bytes(self._data), bytearray()
        return data
