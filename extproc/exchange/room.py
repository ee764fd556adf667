"""Room for request bodies while they come in: what bounds a worker's memory, however many clients send at once.

In: whose a request is, and how many bytes it will have, or has so far. Out: nothing, or Overloaded. Pure. A worker
cannot make Envoy wait with one body without waiting with all, so what finds no room is refused, before it is sent where
its length was told; clients try again.

Whoever tells a length and sends nothing keeps its room until the request ends, which may be long. So a team may hold no
more than it leaves: one alone half of all, the next one a quarter, and nobody takes the last of it. The first
LARGE_BYTES of each body have a room of their own: a few large ones do not keep the small ones away.
"""

import logging
from collections import Counter

from extproc.chat import LARGE_BYTES
from extproc.errors import Overloaded
from extproc.process.logs import Trouble

log = logging.getLogger(__name__)

ROOM_BYTES = 128 * 1024 * 1024  # of either
_RETRY_AFTER_S = 1.0


class Room:
    """Of one worker."""

    def __init__(self) -> None:
        self._begun, self._large = _Part("requests"), _Part("large requests")

    def take(self, team_id: str, had: int, size: int) -> None:
        """Room for a body of `size` bytes that had it for `had` of them, to be given `back`. Raises Overloaded."""
        shares = self._shares(had, size)
        for part, more in shares:
            part.check(team_id, more)
        for part, more in shares:
            part.add(team_id, more)

    def back(self, team_id: str, size: int) -> None:
        """What was taken for a body is free again."""
        for part, more in self._shares(0, size):
            part.add(team_id, -more)

    def _shares(self, had: int, size: int) -> tuple[tuple["_Part", int], ...]:
        begun = self._begun, min(size, LARGE_BYTES) - min(had, LARGE_BYTES)
        return (begun,) if size <= LARGE_BYTES else (begun, (self._large, size - max(had, LARGE_BYTES)))


class _Part:
    """Room for a part of each body."""

    def __init__(self, whose: str) -> None:
        self._free = ROOM_BYTES
        self._held: Counter[str] = Counter()  # by team
        self._full = Trouble(log, f"too many {whose} at once; some are refused", f"{whose} have room again")

    def check(self, team_id: str, more: int) -> None:
        held = self._held[team_id]
        if more and held + more > self._free - more:
            self._full.seen(f"{ROOM_BYTES} bytes are there for all", free=self._free, team=team_id, held=held)
            raise Overloaded("The gateway is reading too many requests now; try again.", retry_after_s=_RETRY_AFTER_S)

    def add(self, team_id: str, more: int) -> None:
        self._held[team_id] += more
        self._free -= more
        if self._free == ROOM_BYTES:
            self._held.clear()
            self._full.over()
