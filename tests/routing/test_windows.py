"""Rolling windows: what is in them, and for how long."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.routing.windows import Observation, Tally, Window, quantile_ms

OK = Observation("ok", 100.0, 200.0)
ERROR = Observation("error")
LIMITED = Observation("rate_limited")


def tally(*seen: Observation) -> Tally:
    window = Window(60)
    for each in seen:
        window.add(1000.0, each)
    return window.read(1000.0)


def test_an_attempt_leaves_when_its_minute_is_over() -> None:
    window = Window(60)
    window.add(1000.0, OK)
    window.add(1030.0, ERROR)
    assert (window.read(1059.0).ok, window.read(1059.0).error) == (1, 1)
    assert (window.read(1061.0).ok, window.read(1061.0).error) == (0, 1)
    assert window.read(1091.0) == Tally(streamed={}, whole={}, total={})


def test_a_rate_limit_served_nobody_either() -> None:
    assert tally(OK, OK, ERROR, LIMITED).error_rate == 0.5
    assert tally().error_rate == 0.0


def test_only_answers_have_latencies() -> None:
    seen = tally(OK, Observation("error", 5_000.0, 5_000.0), Observation("ok", 10.0, 20.0, stream=True))
    assert sum(seen.whole.values()) == sum(seen.streamed.values()) == 1
    assert sum(seen.total.values()) == 2
    assert quantile_ms(seen.first_byte, 0.99) == pytest.approx(100.0, rel=0.01)


@given(st.lists(st.floats(0.02, 600_000), min_size=1, max_size=200), st.floats(0.01, 1))
def test_quantiles_are_those_of_the_durations(durations: list[float], q: float) -> None:
    exact = sorted(durations)[max(0, -(-len(durations) * q // 1).__int__() - 1)]
    found = quantile_ms(tally(*(Observation("ok", each) for each in durations)).whole, q)
    assert found == pytest.approx(exact, rel=0.01)


@given(st.lists(st.tuples(st.floats(0, 400), st.sampled_from([OK, ERROR, LIMITED])), max_size=100))
def test_the_running_sum_is_the_sum_of_what_is_left(events: list[tuple[float, Observation]]) -> None:
    window = Window(60)
    for at, seen in sorted(events, key=lambda event: event[0]):
        window.add(at, seen)
    now = max([at for at, _ in events], default=0.0)
    left = [seen for at, seen in events if int(at) > int(now) - 60]
    found = window.read(now)
    assert found.attempts == len(left)
    assert found.error == left.count(ERROR)
    assert sum(found.total.values()) == left.count(OK)


def test_tallies_of_replicas_add_up() -> None:
    numbers = random.Random(7)
    seen = [numbers.choice([OK, ERROR, LIMITED]) for _ in range(50)]
    one = tally(*seen[:20])
    one.add(tally(*seen[20:]))
    assert one == tally(*seen)
