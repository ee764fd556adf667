"""Circuits: every transition, what counts as evidence, and who wins between replicas."""

import itertools
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.routing.breaker import (
    CLOSED,
    PROVEN_BY,
    TRANSITIONS,
    Circuit,
    CircuitBreaker,
    Event,
    State,
    closed_by_hand,
    merged,
    moved,
)
from extproc.routing.windows import Observation
from extproc.settings import Breaker

OK, ERROR, LIMITED = Observation("ok"), Observation("error"), Observation("rate_limited")
NOW = 1_000_000.0
SETTINGS = Breaker()


def breaker(**changes: float) -> CircuitBreaker:
    return CircuitBreaker(Breaker.model_validate(changes))


def feed(one: CircuitBreaker, *seen: Observation, at: float = NOW, model: str = "gpt") -> State:
    for each in seen:
        one.observe(each, model, at, at)
    return one.circuit.at(at)


def test_every_state_and_event_moves_or_changes_nothing() -> None:
    circuits = {
        "closed": CLOSED,
        "open": Circuit("open", until_s=NOW + 1, version=1),
        "half-open": Circuit("open", until_s=NOW - 1, version=1),
    }
    for state, event in itertools.product(get_args(State), get_args(Event)):
        after = moved(circuits[state], event, NOW, 15.0)
        assert after.at(NOW) == TRANSITIONS.get((state, event), state)
        assert (after is circuits[state]) == ((state, event) not in TRANSITIONS)


def test_failures_in_a_row_open_it() -> None:
    one = breaker()
    assert feed(one, *[ERROR] * 4, OK, *[ERROR] * 4) == "closed"
    assert feed(one, ERROR) == "open"
    assert one.circuit.until_s == NOW + SETTINGS.open_for


@pytest.mark.parametrize(("ended_s", "state"), [(NOW - 0.05, "open"), (NOW + 0.05, "closed")], ids=["before", "after"])
def test_an_answer_from_before_the_failures_that_is_told_after_them_ends_no_row(ended_s: float, state: State) -> None:
    """Each of Envoy's threads tells of its attempts in its own time."""
    one = breaker()
    failed, answered = Observation("error", total_ms=10.0), Observation("ok", total_ms=500.0)
    for seen, at in (*[(failed, NOW)] * 4, (answered, ended_s), (failed, NOW + 0.2)):
        one.observe(seen, "gpt", at - (seen.total_ms or 0.0) / 1000, NOW + 0.2)
    assert one.circuit.at(NOW + 0.2) == state


def test_a_share_of_failures_opens_it_once_there_are_enough_requests() -> None:
    one = breaker()
    assert feed(one, *[OK, ERROR] * 4) == "closed"
    assert feed(one, OK, ERROR) == "open"


def test_a_share_of_failures_that_begins_after_a_long_time_of_answers() -> None:
    one = breaker()
    assert feed(one, *[OK] * 1000, at=NOW - 1) == "closed"
    assert feed(one, *[OK, ERROR] * 6) == "closed"
    assert feed(one, *[OK, ERROR] * 4) == "open"


def test_what_fails_now_and_then_needs_more_failures_to_open() -> None:
    """The same failures are less of a surprise there."""
    one = breaker()
    assert feed(one, *[*[OK] * 9, ERROR] * 100, at=NOW - 1) == "closed"
    assert feed(one, *[OK, ERROR] * 8) == "closed"
    assert feed(one, *[OK, ERROR] * 10) == "open"


def test_who_asks_that_more_fail_has_it() -> None:
    one = breaker(error_rate=0.9)
    assert feed(one, *[OK] * 1000, *[OK, OK, ERROR] * 100) == "closed"
    assert feed(one, *[ERROR, ERROR, ERROR, ERROR, OK] * 4) == "open"


def test_many_requests_at_once_need_more_failures() -> None:
    """There are more moments at which bad luck might begin."""
    few, many = breaker(), breaker()
    burst = [ERROR, OK, OK, OK] * 7 + [ERROR]
    assert feed(few, *[OK] * 100, *burst) == "open"
    assert feed(many, *[OK] * 100_000, *burst) == "closed"


def test_a_few_failures_among_answers_do_not_open_it() -> None:
    assert feed(breaker(), *[OK, OK, OK, ERROR] * 500) == "closed"


def test_failures_of_long_ago_do_not_count() -> None:
    one = breaker(consecutive_failures=100)
    feed(one, *[ERROR] * 9)
    assert feed(one, *[OK] * 5, ERROR, at=NOW + 120) == "closed"


def test_rate_limits_never_open_it() -> None:
    assert feed(breaker(), *[LIMITED] * 1000) == "closed"


def test_a_refused_credential_opens_it_at_once() -> None:
    one = breaker()
    assert one.observe(ERROR, "gpt", NOW, NOW, refused=True)
    assert (one.circuit.at(NOW), one.circuit.reason) == ("open", "credential")


def opened() -> CircuitBreaker:
    one = breaker()
    feed(one, *[ERROR] * 5)
    return one


def test_answers_of_requests_from_before_say_nothing() -> None:
    one = opened()
    later = one.circuit.until_s + 1
    for _ in range(10):
        assert not one.observe(OK, "gpt", NOW - 1, later)
    assert one.circuit.at(later) == "half-open"


def test_probes_close_it() -> None:
    one = opened()
    later = one.circuit.until_s + 1
    assert feed(one, *[OK] * (PROVEN_BY - 1), at=later) == "half-open"
    assert feed(one, OK, at=later) == "closed"


def test_a_failed_probe_opens_it_again() -> None:
    one = opened()
    later = one.circuit.until_s + 1
    assert feed(one, *[OK] * (PROVEN_BY - 1), LIMITED, ERROR, at=later) == "open"
    assert one.circuit.until_s == later + SETTINGS.open_for


def test_what_made_it_open_does_not_count_after_it_closed() -> None:
    one = opened()
    later = one.circuit.until_s + 1
    assert feed(one, *[OK] * PROVEN_BY, *[ERROR] * 4, at=later) == "closed"


def test_one_failing_model_among_others_is_not_the_provider() -> None:
    one = breaker()
    feed(one, OK, model="good")
    assert feed(one, *[ERROR] * 100, model="bad") == "closed"
    assert feed(one, ERROR, model="good") == "open"


circuits = st.builds(
    Circuit,
    state=st.sampled_from(["closed", "open"]),
    until_s=st.sampled_from([0.0, NOW]),
    version=st.integers(0, 3),
)


@given(st.lists(circuits, min_size=1, max_size=6), st.randoms())
def test_replicas_agree_in_whatever_order_they_hear(said: list[Circuit], order: st.DataObject) -> None:
    def heard(sequence: list[Circuit]) -> Circuit:
        one = CircuitBreaker(SETTINGS)
        for circuit in sequence:
            one.adopt(circuit)
        return one.circuit

    shuffled = list(said)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert heard(said) == heard(shuffled)
    assert heard(said).version == max(circuit.version for circuit in said)


@pytest.mark.parametrize("circuit", [CLOSED, Circuit("open", until_s=NOW + 5, version=10**15)])
def test_a_hand_closes_what_others_say_is_open(circuit: Circuit) -> None:
    closed = closed_by_hand(circuit, NOW)
    assert merged(circuit, closed) == closed
    assert closed.at(NOW) == "closed"
