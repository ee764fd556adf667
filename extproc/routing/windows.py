"""Rolling windows of attempts: how many ended how, and how long they took. Pure.

In: one observation an attempt, with the time. Out: a `Tally` of the last minute, or five. A window is a ring of slots
and their running sum, so that neither adding nor reading looks at every attempt. Tallies of several replicas add up.
"""

import math
from collections import deque
from functools import lru_cache
from typing import Literal

import msgspec

Ending = Literal["ok", "error", "rate_limited"]

BINS_PER_OCTAVE = 64  # a duration is known to within 0.6 %
_LEAST_MS = 0.01
_SLOTS = 60


class Observation(msgspec.Struct, frozen=True):
    """How one attempt ended. Durations are None where it never came so far."""

    ending: Ending
    first_byte_ms: float | None = None
    total_ms: float | None = None
    stream: bool = False


class Tally(msgspec.Struct):
    """Counts of endings, and histograms of durations by bin."""

    ok: int = 0
    error: int = 0
    rate_limited: int = 0
    streamed: dict[int, int] = {}  # first byte of streams
    whole: dict[int, int] = {}  # first byte of answers that were not streamed: all of the answer
    total: dict[int, int] = {}

    @property
    def attempts(self) -> int:
        """All that say something of the provider."""
        return self.ok + self.error + self.rate_limited

    @property
    def error_rate(self) -> float:
        """Share that served nobody, 0 to 1."""
        return (self.error + self.rate_limited) / self.attempts if self.attempts else 0.0

    @property
    def first_byte(self) -> dict[int, int]:
        """First bytes of all answers."""
        return _sum(dict(self.streamed), self.whole, 1)

    def observe(self, seen: Observation) -> None:
        """Add one attempt."""
        setattr(self, seen.ending, getattr(self, seen.ending) + 1)
        if seen.ending == "ok":
            _count(self.streamed if seen.stream else self.whole, seen.first_byte_ms)
            _count(self.total, seen.total_ms)

    def add(self, other: "Tally", sign: int = 1) -> None:
        """Add all of `other`, or with `sign` -1 take it away."""
        self.ok += sign * other.ok
        self.error += sign * other.error
        self.rate_limited += sign * other.rate_limited
        for mine, theirs in ((self.streamed, other.streamed), (self.whole, other.whole), (self.total, other.total)):
            _sum(mine, theirs, sign)


def _count(bins: dict[int, int], duration_ms: float | None) -> None:
    if duration_ms is not None:
        index = _bin(duration_ms)
        bins[index] = bins.get(index, 0) + 1


@lru_cache(maxsize=16)  # an attempt is counted in several windows
def _bin(duration_ms: float) -> int:
    return round(BINS_PER_OCTAVE * math.log2(max(duration_ms, _LEAST_MS)))


def _sum(mine: dict[int, int], theirs: dict[int, int], sign: int) -> dict[int, int]:
    for index, count in theirs.items():
        left = mine.get(index, 0) + sign * count
        if left:
            mine[index] = left
        else:
            mine.pop(index, None)
    return mine


def quantile_ms(bins: dict[int, int], q: float) -> float | None:
    """The duration that a share `q` of those in `bins` did not exceed; None of none."""
    left = q * sum(bins.values())
    for index in sorted(bins):
        left -= bins[index]
        if left <= 0:
            return float(2 ** (index / BINS_PER_OCTAVE))
    return None


class Window:
    """The last `span_s` seconds, to within a sixtieth of it."""

    def __init__(self, span_s: float) -> None:
        self._slot_s = span_s / _SLOTS
        self._slots: deque[tuple[int, Tally]] = deque()
        self._sum = Tally()

    def add(self, now_s: float, seen: Observation) -> None:
        """Add one attempt that ended at `now_s`; one that is late counts as if it ended with the last."""
        index = max(int(now_s / self._slot_s), self._slots[-1][0] if self._slots else 0)
        self._advance(index)
        if not self._slots or self._slots[-1][0] != index:
            self._slots.append((index, Tally()))
        self._slots[-1][1].observe(seen)
        self._sum.observe(seen)

    def read(self, now_s: float) -> Tally:
        """What is in the window now; belongs to the window, so do not keep it."""
        self._advance(int(now_s / self._slot_s))
        return self._sum

    def _advance(self, index: int) -> None:
        while self._slots and self._slots[0][0] <= index - _SLOTS:
            self._sum.add(self._slots.popleft()[1], -1)
