"""Time as the walk asks for it, so that tests and measurements can own it."""

import time
from typing import Protocol


class Clock(Protocol):
    """What time it is."""

    def wall_s(self) -> float:
        """Seconds since the epoch."""

    def mono_ns(self) -> int:
        """Nanoseconds that only ever grow."""


class SystemClock:
    """The machine's own."""

    wall_s = staticmethod(time.time)
    mono_ns = staticmethod(time.monotonic_ns)
