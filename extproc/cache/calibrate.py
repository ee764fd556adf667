"""How near a candidate must be: a threshold for each partition, moved by what its own traffic shows. Pure.

In: tallies of checks, each a cosine and whether the cached answer and the provider's own agreed. Out: a threshold, and
an estimate of the share of wrong hits with its confidence bound. It begins strict (`START`), goes down only where the
checks below it prove the limit is kept, and up as soon as those above it say that it is not. Checks come from two
places: a share of semantic hits is asked of the provider anyway, and a candidate that was not near enough is compared
with the answer that came instead, which costs nothing. The latter are the worse part, so the estimate errs upwards.
Source of the bound: Clopper and Pearson, Biometrika 26 (1934).
"""

import math
from typing import Final

import msgspec

SCALE: Final = 2  # raised when the same two texts get another cosine: earlier checks then say nothing
FLOOR: Final = 0.80  # cosines below are never a hit
STEP: Final = 0.01
BUCKETS: Final = 20
# ADR 16: of the 331 hits above it in the parts of two sets that are for choosing, 1 was wrong.
START: Final = 0.93
OFF: Final = 1.01  # nothing is near enough
_CONFIDENCE: Final = 0.95
_BAND: Final = 3  # buckets at the threshold that must stand by themselves
_WORSE: Final = 5.0  # their bound may be this many times the limit
_MIN_WRONG: Final = 2  # one wrong hit may be chance; from two on the share counts against a threshold


class Tally(msgspec.Struct):
    """Checks of a partition: how many, and how many of them wrong, by bucket of cosine."""

    checked: list[int] = msgspec.field(default_factory=lambda: [0] * BUCKETS)
    wrong: list[int] = msgspec.field(default_factory=lambda: [0] * BUCKETS)

    def add(self, cosine: float, *, wrong: bool, number: int = 1) -> None:
        """One more check."""
        at = bucket(cosine)
        self.checked[at] += number
        self.wrong[at] += number * wrong

    def above(self, first: int, last: int = BUCKETS) -> tuple[int, int]:
        """Checks and wrong ones of the buckets from `first` up to `last`, without it."""
        return sum(self.checked[first:last]), sum(self.wrong[first:last])


class Estimate(msgspec.Struct, frozen=True):
    """Share of wrong hits at a threshold. `upper`: with 95 % confidence it is not larger."""

    threshold: float
    checked: int
    wrong: int
    rate: float
    upper: float


def bucket(cosine: float) -> int:
    """Of a cosine; those below the floor and above 1 fall into the ends."""
    return min(max(math.floor((cosine - FLOOR) / STEP + 1e-6), 0), BUCKETS - 1)


def lower_end(at: int) -> float:
    """The least cosine of a bucket."""
    return round(FLOOR + at * STEP, 6)


def estimate(tally: Tally, limit: float) -> Estimate:
    """The threshold that keeps `limit`, and what is known at it."""
    at = _first(tally, limit)
    checked, wrong = tally.above(at)
    threshold = OFF if at == BUCKETS else lower_end(at)
    return Estimate(threshold, checked, wrong, wrong / checked if checked else 0.0, upper_bound(wrong, checked))


def _first(tally: Tally, limit: float) -> int:
    """The lowest bucket that is served."""
    start = bucket(START)
    if _refuted(tally, start, limit):
        return next((at for at in range(start + 1, BUCKETS) if not _refuted(tally, at, limit)), BUCKETS)
    return next((at for at in range(start) if _proved(tally, at, start, limit)), start)


def _refuted(tally: Tally, at: int, limit: float) -> bool:
    checked, wrong = tally.above(at)
    return wrong >= _MIN_WRONG and wrong > limit * checked


def _proved(tally: Tally, at: int, start: int, limit: float) -> bool:
    """All that would be served keeps the limit, and the lowest band of it, which was checked, is not much worse."""
    checked, wrong = tally.above(at)
    low_checked, low_wrong = tally.above(at, min(at + _BAND, start))
    return (
        tally.checked[at] > 0
        and _is_below(wrong, checked, limit)
        and _is_below(low_wrong, low_checked, min(_WORSE * limit, 1.0 - 1e-9))
    )


def upper_bound(wrong: int, checked: int) -> float:
    """Clopper and Pearson's upper bound on a share, one-sided, of `wrong` in `checked`; 1 where nothing was checked."""
    if wrong >= checked:
        return 1.0
    low, high = max(wrong / checked, 1e-9), 1.0 - 1e-9
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if _is_below(wrong, checked, middle) else (middle, high)
    return high


def _is_below(wrong: int, checked: int, share: float) -> bool:
    """Whether the upper bound of `wrong` in `checked` is at most `share`: so few would be too rare, were it more.

    The binomial probability of `wrong` or fewer, summed from `wrong` down: below the expected number its terms shrink.
    """
    if wrong >= share * checked:
        return False
    k, rest = wrong, checked - wrong
    term = math.exp(
        math.lgamma(checked + 1)
        - math.lgamma(k + 1)
        - math.lgamma(rest + 1)
        + k * math.log(share)
        + rest * math.log1p(-share)
    )
    total = 0.0
    while k >= 0 and term > 1e-12:
        total += term
        term *= k / (checked - k + 1) * (1 - share) / share
        k -= 1
    return total <= 1 - _CONFIDENCE
