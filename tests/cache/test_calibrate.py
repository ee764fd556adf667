"""How checks move a partition's threshold."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cache.calibrate import BUCKETS, FLOOR, OFF, START, Tally, bucket, estimate, lower_end, upper_bound

TALLIES = st.lists(st.tuples(st.integers(0, 400), st.floats(0, 1)), min_size=BUCKETS, max_size=BUCKETS).map(
    lambda rows: Tally([n for n, _ in rows], [int(n * share) for n, share in rows])
)


def tally(*rows: tuple[float, int, int]) -> Tally:
    """Of (cosine, right, wrong)."""
    made = Tally()
    for cosine, right, wrong in rows:
        made.add(cosine, wrong=False, number=right)
        made.add(cosine, wrong=True, number=wrong)
    return made


def test_it_begins_strict() -> None:
    found = estimate(Tally(), 0.01)
    assert (found.threshold, found.checked, found.upper) == (START, 0, 1.0)


def test_proof_lowers_it() -> None:
    assert estimate(tally((0.95, 300, 0)), 0.01).threshold == START
    assert estimate(tally((0.95, 300, 0), (0.91, 100, 0)), 0.01).threshold == 0.91
    assert estimate(tally((0.95, 10, 0), (0.91, 10, 0)), 0.01).threshold == START


def test_a_bad_part_is_not_carried_by_a_good_one() -> None:
    """All together would keep the limit; what would newly be served would be wrong."""
    assert estimate(tally((0.97, 3000, 0), (0.88, 0, 5)), 0.01).threshold > 0.88


def test_wrong_hits_raise_it_by_themselves() -> None:
    assert estimate(tally((0.945, 20, 1)), 0.01).threshold == START, "one may be chance"
    raised = estimate(tally((0.945, 20, 2), (0.975, 50, 0)), 0.01)
    assert 0.945 < raised.threshold <= 0.975
    assert estimate(tally((0.995, 10, 5)), 0.01).threshold == OFF


def test_the_bound_is_clopper_and_pearsons() -> None:
    assert upper_bound(0, 299) == pytest.approx(0.00997, abs=1e-4)  # the rule of three, exactly
    assert upper_bound(2, 289) == pytest.approx(0.0216, abs=2e-4)
    assert upper_bound(5, 5) == 1.0
    assert upper_bound(0, 0) == 1.0


@given(st.integers(0, 20), st.integers(1, 500))
def test_the_bound_is_above_the_share_and_falls_with_more_checks(wrong: int, right: int) -> None:
    bound = upper_bound(wrong, wrong + right)
    assert wrong / (wrong + right) < bound <= 1
    assert upper_bound(wrong, wrong + right + 50) <= bound


@given(TALLIES, st.floats(0.001, 0.2))
def test_what_is_served_is_not_known_to_break_the_limit(made: Tally, limit: float) -> None:
    found = estimate(made, limit)
    assert FLOOR <= found.threshold <= OFF
    assert found.wrong < 2 or found.rate <= limit
    assert not math.isnan(found.upper)


@given(st.floats(-1, 1.2))
def test_buckets_cover_every_cosine(cosine: float) -> None:
    assert 0 <= bucket(cosine) < BUCKETS
    if FLOOR <= cosine < 1:
        assert lower_end(bucket(cosine)) <= cosine + 1e-6
