"""Room for large request bodies while they come in: what bounds a worker's memory, however many clients send at once.

In: how many bytes a request will have, or has so far. Out: nothing, or Overloaded. Pure. A worker cannot make Envoy
wait with one body without waiting with all, so what finds no room is refused, before it is sent where its length was
told; clients try again.
"""

import logging

from extproc.errors import Overloaded
from extproc.process.logs import Trouble

log = logging.getLogger(__name__)

ROOM_BYTES = 128 * 1024 * 1024
_RETRY_AFTER_S = 1.0


class Room:
    """Of one worker."""

    def __init__(self) -> None:
        self._free = ROOM_BYTES
        self._full = Trouble(log, "too many large requests at once; some are refused", "large requests have room again")

    def take(self, size: int) -> int:
        """Room for `size` bytes more, to be given `back`. Raises Overloaded."""
        if size > self._free:
            self._full.seen(f"{ROOM_BYTES} bytes of requests are on their way", free=self._free)
            raise Overloaded(
                "The gateway is reading too many large requests now; try again.", retry_after_s=_RETRY_AFTER_S
            )
        self._free -= size
        return size

    def back(self, size: int) -> None:
        """What was taken is free again."""
        self._free += size
        if size and self._free == ROOM_BYTES:
            self._full.over()
