"""Room for large request bodies while they come in: what bounds a worker's memory, however many clients send at once.

In: whose a request is, and how many bytes it will have, or has so far. Out: nothing, or Overloaded. Pure. A worker
cannot make Envoy wait with one body without waiting with all, so what finds no room is refused, before it is sent where
its length was told; clients try again.

Whoever tells a length and sends nothing keeps its room until the request ends, which may be long. So a team may hold no
more than it leaves: one alone half of all, the next one a quarter, and nobody takes the last of it.
"""

import logging
from collections import Counter

from extproc.errors import Overloaded
from extproc.process.logs import Trouble

log = logging.getLogger(__name__)

ROOM_BYTES = 128 * 1024 * 1024
_RETRY_AFTER_S = 1.0


class Room:
    """Of one worker."""

    def __init__(self) -> None:
        self._free = ROOM_BYTES
        self._held: Counter[str] = Counter()  # by team
        self._full = Trouble(log, "too many large requests at once; some are refused", "large requests have room again")

    def take(self, team_id: str, size: int) -> int:
        """Room for `size` bytes more, to be given `back`. Raises Overloaded."""
        held = self._held[team_id] + size
        if held > self._free - size:
            self._full.seen(f"{ROOM_BYTES} bytes are there for all", free=self._free, team=team_id, held=held - size)
            raise Overloaded(
                "The gateway is reading too many large requests now; try again.", retry_after_s=_RETRY_AFTER_S
            )
        self._held[team_id] = held
        self._free -= size
        return size

    def back(self, team_id: str, size: int) -> None:
        """What was taken is free again."""
        self._free += size
        self._held[team_id] -= size
        if self._free == ROOM_BYTES:
            self._held.clear()
            self._full.over()
