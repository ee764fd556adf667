"""What the walk waits for, as small protocols: the pure parts know these, the shells implement them."""

from typing import Protocol


class Clock(Protocol):
    """Time, so that tests can own it."""

    def wall_s(self) -> float:
        """Seconds since the epoch."""

    def mono_ns(self) -> int:
        """Nanoseconds that only ever grow."""
