"""The byte stream of a connection -> whole frames, header blocks in one piece.

In: what was read, in pieces of any size. Out: `(kind, flags, stream, payload)`; a block that CONTINUATION frames
complete comes as one HEADERS frame, without its padding and priority. Long DATA comes as it is read: parts of a frame,
or several frames of a stream as one, since a body of 10 MiB is 640 of them. RFC 9113, sections 3.4, 4 and 6.10.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from extproc.body.pieces import LONG_BYTES, Body, Pieces
from extproc.transport import frame
from extproc.transport.frame import Code, ConnectionFault

_BLOCK_BYTES = 65_536  # of a header block as sent
_BLOCK_FRAMES = 64

Frame = tuple[int, int, int, Any]  # of DATA a Body, else bytes


class _Block(msgspec.Struct, gc=False):
    """A header block on its way."""

    flags: int
    stream_id: int
    parts: list[bytes]
    size: int


class FrameReader:
    """Keeps less than a frame, and a header block."""

    def __init__(self) -> None:
        self._rest = b""
        self._left = self._flags = self._stream_id = 0  # of a DATA frame: bytes that are still to come
        self._block: _Block | None = None
        self._await_preface = self._await_settings = True
        self._plain = False  # any frame may come

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that came with `data`. Raises ConnectionFault after those before it."""
        data = self._rest + data if self._rest else data
        at, size, unpack = 0, len(data), frame.HEADER.unpack_from
        if self._await_preface:
            at = self._preface(data)
        elif self._left:
            payload, at = self._long(data, 0)
            yield frame.DATA, self._end, self._stream_id, payload
        while size - at >= frame.HEADER_BYTES and not self._await_preface:
            word, flags, stream_id = unpack(data, at)
            start = at + frame.HEADER_BYTES
            if word >> 8 > frame.FRAME_BYTES:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "frame too large")
            end = start + (word >> 8)
            kind, stream_id = word & 0xFF, stream_id & frame.ID_MASK
            if end > size or word >> 8 == frame.FRAME_BYTES:
                if kind == frame.DATA and self._plain and start < size and not flags & frame.PADDED:
                    self._left, self._flags, self._stream_id = word >> 8, flags, stream_id
                    payload, at = self._long(data, start)
                    yield kind, self._end, stream_id, payload
                    continue
                if end > size:
                    break
            at = end
            if kind == frame.DATA and self._plain:
                yield kind, flags, stream_id, data[start:end]  # by far the most
            elif (whole := self._other(kind, flags, stream_id, data[start:end])) is not None:
                yield whole
        self._rest = data[at:]

    @property
    def _end(self) -> int:
        """The flags of what `_long` gave."""
        return 0 if self._left else self._flags & frame.END_STREAM

    def _long(self, data: bytes, at: int) -> tuple[Body, int]:
        """What `data` has of a DATA frame from `at` on, and of those behind it on its stream; and where that ends.

        Left where it lies if it is most of what was read, all of which is kept then.
        """
        view, size, unpack = memoryview(data), len(data), frame.HEADER.unpack_from
        pieces: list[bytes | memoryview] = []
        while True:
            end = at + self._left
            pieces.append(view[at:end])
            if end > size:
                self._left, at = end - size, size
                break
            self._left, at = 0, end
            if size - at < frame.HEADER_BYTES or self._flags & frame.END_STREAM:
                break
            word, flags, stream_id = unpack(data, at)
            more = word >> 8
            same = word & 0xFF == frame.DATA and stream_id & frame.ID_MASK == self._stream_id
            if not same or flags & frame.PADDED or not 0 < more <= frame.FRAME_BYTES:
                break
            self._left, self._flags, at = more, flags, at + frame.HEADER_BYTES
        payload = Pieces(pieces)
        return payload if LONG_BYTES < len(payload) > size // 2 else bytes(payload), at

    def _preface(self, data: bytes) -> int:
        """Where the first frame begins."""
        if not frame.PREFACE.startswith(data[: len(frame.PREFACE)]):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "not HTTP/2")
        self._await_preface = len(data) < len(frame.PREFACE)
        return 0 if self._await_preface else len(frame.PREFACE)

    def _other(self, kind: int, flags: int, stream_id: int, payload: bytes) -> Frame | None:
        if self._await_settings:
            if kind != frame.SETTINGS or flags & frame.ACK:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "the first frame must be SETTINGS")
            self._await_settings, self._plain = False, True
        if kind == frame.CONTINUATION:
            return self._continued(flags, stream_id, payload)
        if self._block is not None:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a header block was interrupted")
        if kind != frame.HEADERS:
            return kind, flags, stream_id, payload
        payload = _bare(flags, payload)
        if flags & frame.END_HEADERS:
            return kind, flags, stream_id, payload
        self._block, self._plain = _Block(flags, stream_id, [payload], len(payload)), False
        return None

    def _continued(self, flags: int, stream_id: int, payload: bytes) -> Frame | None:
        block = self._block
        if block is None or block.stream_id != stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        block.parts.append(payload)
        block.size += len(payload)
        if block.size > _BLOCK_BYTES or len(block.parts) > _BLOCK_FRAMES:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "header block too large")
        if not flags & frame.END_HEADERS:
            return None
        self._block, self._plain = None, True
        return frame.HEADERS, block.flags, stream_id, b"".join(block.parts)


def unpad(payload: bytes) -> bytes:
    """The payload of a PADDED frame without its padding. Raises ConnectionFault."""
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(Code.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def _bare(flags: int, payload: bytes) -> bytes:
    """The block in a HEADERS frame. Priorities are deprecated and ignored: section 5.3.2."""
    if flags & frame.PADDED:
        payload = unpad(payload)
    if flags & frame.WITH_PRIORITY:
        if len(payload) < 5:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "HEADERS without room for its priority")
        payload = payload[5:]
    return payload
