"""A request's body on its way to a worker.

In: its pieces, and how long it will be, where that was told. Out: the whole. It takes room from when its length is
known until it is decided.
"""

import msgspec

from extproc.admission import too_large
from extproc.body.pieces import Body, joined, parts_of
from extproc.chat import LARGE_BYTES
from extproc.exchange.room import Room
from extproc.wire import MAX_REQUEST_BYTES

# Read at most to see whether a body has ended: 10 ms. One in pieces of 2 KiB has its 256 KiB looked at after each of
# them; of pieces of 3 bytes that all end like an object, 24 KB took 4 s.
_LOOKS_BYTES = 16 * 1024 * 1024


class Upload:
    """`due_bytes`: its length; -1, if it was not told. Raises Overloaded where there is no room."""

    def __init__(self, room: Room, team_id: str, due_bytes: int) -> None:
        self._room = room
        self._team_id = team_id
        self._due = due_bytes
        self._pieces: list[Body | memoryview] = []
        self._size = 0
        self._taken = 0  # of the room
        self._looks = _LOOKS_BYTES  # left
        self._take(due_bytes)

    def add(self, piece: Body | memoryview, *, end: bool) -> bool:
        """Keep a piece. Returns whether the body is whole: behind one with trailers (HTTP/2) Envoy says nothing of its
        end before it has our reply, but mostly its length was told, else what came may be an object that has ended.
        Raises RequestTooLarge, Overloaded."""
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > MAX_REQUEST_BYTES:
            raise too_large()
        self._take(self._size)
        if end or self._due >= 0:
            return end or self._size == self._due
        last = parts_of(piece)[-1:]
        if not last or last[0][-1:] != b"}" or self._size > min(LARGE_BYTES, self._looks):
            return False
        self._looks -= self._size
        self._pieces = [whole := joined(self._pieces)]
        return _is_json(whole)

    def whole(self) -> bytes:
        """What came, which is no longer kept here; its room still is."""
        pieces, self._pieces = self._pieces, []
        return joined(pieces)

    def end(self) -> None:
        """Its room is free again. Harmless twice."""
        self._pieces = []
        if self._taken:
            self._room.back(self._team_id, self._taken)
            self._taken = 0

    def _take(self, size: int) -> None:
        """For a body of so many bytes, or so many so far."""
        if size > self._taken:
            self._room.take(self._team_id, self._taken, size)
            self._taken = size


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return True
