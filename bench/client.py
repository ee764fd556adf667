"""A client connection that costs next to nothing: bytes made beforehand out, answers counted rather than read.

In: whole requests as bytes; HTTP/1.1 answers with a content-length or in chunks. Out: what `Reader` counted, at the
moment the answer is whole. JSON is never parsed: the client must not be the bottleneck at 33,000 chunks a second.
Called by `bench.load`.
"""

import asyncio
import re
import time
from collections.abc import Callable
from typing import cast

TAIL_BYTES = 64
_MAX_HEAD_BYTES = 64 * 1024
_MAX_SIZE_LINE_BYTES = 64
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


class UnreadableError(ValueError):
    """The bytes are not an answer that this client reads."""


class Reader:
    """One answer, fed as it arrives, split anywhere. Sans-I/O.

    `events` counts blank lines in the body, which for server-sent events is the events; `tail` is the body's end.
    """

    __slots__ = ("_buffer", "_chunked", "_left", "_newline", "body_bytes", "events", "status", "tail")

    def __init__(self) -> None:
        self.status = 0  # 0: its head is not there yet
        self.body_bytes = 0
        self.events = 0
        self.tail = b""
        self._buffer = b""  # of the head, or of a chunk's size line
        self._chunked = False
        self._left = 0  # of the body, or of the chunk with its line end
        self._newline = False  # the body so far ends with a line feed that is not part of a blank line

    def feed(self, data: bytes) -> bool:
        """Whether the answer is whole. Raises UnreadableError."""
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        if not self.status:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._keep(data, _MAX_HEAD_BYTES)
                return False
            self._head(data[: end + 2])
            data = data[end + 4 :]
        if self._chunked:
            return self._feed_chunks(data)
        self._body(data)
        self._left -= len(data)
        if self._left < 0:
            raise UnreadableError("more bytes than the content-length says")
        return self._left == 0

    def _head(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 ") or not head[9:12].isdigit():
            raise UnreadableError("not an HTTP/1.1 status line")
        self.status = int(head[9:12])
        length = _LENGTH.search(head)
        self._chunked = _CHUNKED.search(head) is not None
        if length is None and not self._chunked:
            raise UnreadableError("neither a content-length nor chunks")
        self._left = int(length[1]) if length and not self._chunked else 0

    def _feed_chunks(self, data: bytes) -> bool:
        at, end = 0, len(data)
        while at < end:
            if not self._left:
                stop = data.find(b"\r\n", at)
                if stop < 0:
                    self._keep(data[at:], _MAX_SIZE_LINE_BYTES)
                    return False
                size = _size(data[at:stop])
                if not size:  # the last one: an empty line follows it
                    if end - stop >= 4:
                        return True
                    self._keep(data[at:], _MAX_SIZE_LINE_BYTES)
                    return False
                self._left = size + 2
                at = stop + 2
            taken = min(self._left, end - at)
            self._body(data[at : at + min(taken, max(0, self._left - 2))])
            at += taken
            self._left -= taken
        return False

    def _body(self, piece: bytes) -> None:
        if not piece:
            return
        self.body_bytes += len(piece)
        events = piece.count(b"\n\n")
        if self._newline and piece[0] == 10:  # a blank line cut in two
            events = 1 + piece.count(b"\n\n", 1)
        self.events += events
        self._newline = piece[-1] == 10 and not piece.endswith(b"\n\n")
        self.tail = piece[-TAIL_BYTES:] if len(piece) >= TAIL_BYTES else (self.tail + piece)[-TAIL_BYTES:]

    def _keep(self, data: bytes, limit: int) -> None:
        if len(data) > limit:
            raise UnreadableError(f"a head or a size line longer than {limit} bytes")
        self._buffer = data


def _size(line: bytes) -> int:
    try:
        return int(line, 16)
    except ValueError:
        raise UnreadableError("not the size of a chunk") from None


class Call:
    """One request: when it should have been sent, and what came of it. Seconds of `time.monotonic`."""

    __slots__ = ("done_s", "due_s", "error", "first_s", "index", "reader", "sent_s")

    def __init__(self, index: int, due_s: float) -> None:
        self.index = index
        self.due_s = due_s
        self.sent_s = 0.0
        self.first_s = 0.0  # first byte of the body
        self.done_s = 0.0
        self.error: str | None = None
        self.reader = Reader()


class Connection(asyncio.Protocol):
    """A keep-alive connection: one call at a time. `done` is told of the call, and whether the connection lives on."""

    def __init__(self, done: Callable[["Connection", Call], None]) -> None:
        self.alive = True
        self._done = done
        self._call: Call | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, call: Call, request: bytes) -> None:
        """Begin `call`."""
        self._call = call
        call.sent_s = time.monotonic()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        call = self._call
        if call is None:
            self._fail("bytes that nobody asked for")
            return
        try:
            whole = call.reader.feed(data)
        except UnreadableError as error:
            self._fail(f"unreadable: {error}")
            return
        if not call.first_s and call.reader.body_bytes:
            call.first_s = time.monotonic()
        if whole:
            call.done_s = time.monotonic()
            self._end(call)

    def connection_lost(self, _: Exception | None) -> None:
        self._fail("connection lost")

    def close(self) -> None:
        """Drop the connection."""
        self.alive = False
        self._transport.abort()

    def _fail(self, reason: str) -> None:
        self.alive = False
        self._transport.abort()
        if self._call is not None:
            self._call.error = reason
            self._end(self._call)

    def _end(self, call: Call) -> None:
        self._call = None
        self._done(self, call)
