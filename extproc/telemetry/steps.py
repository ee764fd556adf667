"""How long each step of a decision took. Pure.

In: the clock. Out: microseconds by step, in the order the steps were done. Two readings of a clock a step are all it
costs; the spans are made of it later, elsewhere.
"""

from extproc.clock import Clock


class Steps:
    """Of one request: `done` when a step is over, the next one has begun with that."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_ns = self._last_ns = clock.mono_ns()
        self.us: dict[str, int] = {}

    def done(self, name: str) -> None:
        """The step `name` is over; a step done twice is the sum of both."""
        now_ns = self._clock.mono_ns()
        self.us[name] = self.us.get(name, 0) + (now_ns - self._last_ns) // 1000
        self._last_ns = now_ns

    @property
    def total_us(self) -> int:
        """From the beginning to the end of the last step."""
        return (self._last_ns - self._began_ns) // 1000
