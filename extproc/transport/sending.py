"""The sending half of a connection: frames in the order they leave, within the windows the peer grants.

In: header blocks and payloads of streams. Out: bytes, by `take`. What the windows do not let through waits in its
stream's queue; whoever feeds a stream stops while `blocked`. Of what waits, so much leaves at once that what comes up
meanwhile need not stand behind 10 MiB of another stream. RFC 9113, sections 5.2 and 6.9.
"""

from collections.abc import Iterable

from extproc.transport.fields import NO_TABLE
from extproc.transport.frame import (
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    HEADER,
    HEADERS,
    MAX_WINDOW,
    Code,
    ConnectionFault,
    StreamFault,
    rst_stream,
)
from extproc.transport.stream import Stream

# Of all that waits, between two calls of `go_on`: what a unix socket of the usual size takes in one write, and no more.
TURN_BYTES = 13 * FRAME_BYTES


class Sender:
    """What leaves. Knows nothing of what arrives but the peer's settings and window updates."""

    def __init__(self) -> None:
        self.window = DEFAULT_WINDOW  # of the connection
        self.initial_window = DEFAULT_WINDOW  # of each new stream
        self.frame_bytes = FRAME_BYTES  # the peer's limit
        self.resize_table = True  # the next block has to begin with our table size
        self._out: list[bytes | memoryview] = []
        self._blocked: dict[int, Stream] = {}  # streams with a queue, the longest waiting first
        self.turn_bytes = self._turn = TURN_BYTES  # and what is left of it

    def take(self) -> list[bytes | memoryview]:
        """What is to be written now."""
        out, self._out = self._out, []
        return out

    @property
    def waiting(self) -> bool:
        """Whether `go_on` is due: there is more to send than was to be sent at once."""
        return self._turn <= 0 and bool(self._blocked)

    def go_on(self) -> list[Stream]:
        """Send more of what waits. Returns streams that sent all."""
        self._turn = self.turn_bytes
        return self._send_queues()

    def raw(self, data: bytes) -> None:
        """Send finished frames."""
        self._out.append(data)

    def headers(self, stream: Stream, block: bytes, *, end: bool = False) -> None:
        """Send a header block; with `end` behind all that waits, and nothing after it."""
        if end and stream.queue:
            stream.last_block = block
            return
        if self.resize_table:
            block, self.resize_table = NO_TABLE + block, False
        flags = END_HEADERS | END_STREAM if end else END_HEADERS
        self._out.append(HEADER.pack(len(block) << 8 | HEADERS, flags, stream.id) + block)

    def data(self, stream: Stream, payload: bytes) -> None:
        """Send payload, now or when the windows allow."""
        size = len(payload)
        if size <= FRAME_BYTES and size <= stream.window and size <= self.window and not stream.queue:
            stream.window -= size
            self.window -= size
            self._out.append(HEADER.pack(size << 8 | DATA, 0, stream.id) + payload)
        else:
            self.long(stream, (payload,))

    def long(self, stream: Stream, parts: Iterable[bytes | memoryview]) -> None:
        """Send payload that lies in several places, none of them empty, in its turns."""
        stream.queue.extend(map(memoryview, parts))
        self._blocked[stream.id] = stream
        self._send_queue(stream)

    def forget(self, stream: Stream) -> None:
        """Drop what waits: the stream was reset."""
        stream.queue.clear()
        stream.last_block = None
        self._blocked.pop(stream.id, None)

    def grant(self, more: int) -> list[Stream]:
        """The peer opened the connection's window. Returns streams that sent all. Raises ConnectionFault."""
        self.window += more
        if self.window > MAX_WINDOW:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "connection window too large")
        return self._send_queues()

    def grant_stream(self, stream: Stream, more: int) -> bool:
        """The peer opened a stream's window. Returns whether that sent the last that waited. Raises StreamFault."""
        stream.window += more
        if stream.window > MAX_WINDOW:
            raise StreamFault(Code.FLOW_CONTROL_ERROR, stream.id, "stream window too large")
        return stream.id in self._blocked and self._send_queue(stream)

    def change_initial_window(self, value: int, streams: Iterable[Stream]) -> list[Stream]:
        """A setting that also moves the windows of open streams. Raises ConnectionFault."""
        change, self.initial_window = value - self.initial_window, value
        for stream in streams:
            stream.window += change
            if stream.window > MAX_WINDOW:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "stream window too large")
        return self._send_queues()

    def reset(self, stream_id: int, code: Code) -> None:
        """Send RST_STREAM."""
        self._out.append(rst_stream(stream_id, code))

    def _send_queues(self) -> list[Stream]:
        found = []
        for stream in list(self._blocked.values()):
            if self._turn <= 0:
                break
            self._blocked[stream.id] = self._blocked.pop(stream.id)  # others are next
            if self._send_queue(stream):
                found.append(stream)
        return found

    def _send_queue(self, stream: Stream) -> bool:
        """Send what the windows and the turn allow. Returns whether nothing is left."""
        queue = stream.queue
        while queue:
            whole = queue[0]
            size = min(len(whole), stream.window, self.window, self.frame_bytes, self._turn)
            if size <= 0 < len(whole):
                return False
            stream.window -= size
            self.window -= size
            self._turn -= size
            self._out += (HEADER.pack(size << 8 | DATA, 0, stream.id), whole[:size])
            if size == len(whole):
                queue.popleft()
            else:
                queue[0] = whole[size:]
        del self._blocked[stream.id]
        if not self._blocked:
            self._turn = self.turn_bytes
        if stream.last_block is not None:
            self.headers(stream, stream.last_block, end=True)
        return True
