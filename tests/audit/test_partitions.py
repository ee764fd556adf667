"""Which days a partition has, and how a new one fits between others."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from extproc.audit.partitions import Length, Partition, between, ensure, existing, period

DAY_S = 86_400


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("length", "begin", "end"),
    [
        ("day", "2026-12-31", "2027-01-01"),
        ("week", "2026-12-28", "2027-01-04"),
        ("month", "2026-12-01", "2027-01-01"),
    ],
)
def test_periods(length: Length, begin: str, end: str) -> None:
    for moment in ("2026-12-31T00:00:00", "2026-12-31T23:59:59.999999"):
        assert period(at(moment), length) == (
            datetime.fromisoformat(begin).replace(tzinfo=UTC),
            datetime.fromisoformat(end).replace(tzinfo=UTC),
        )


@given(st.lists(st.tuples(st.integers(0, 400 * DAY_S), st.sampled_from(["day", "week", "month"])), max_size=40))
def test_whatever_length_was_set_when_partitions_never_overlap(told: list[tuple[int, Length]]) -> None:
    there: list[Partition] = []
    for at_s, length in told:
        if not any(each.begin_s <= at_s < each.end_s for each in there):
            begin, end = between(period(at_s, length), at_s, there)
            assert begin.timestamp() <= at_s < end.timestamp()
            there.append(Partition("", begin.timestamp(), end.timestamp()))
    there.sort(key=lambda each: each.begin_s)
    assert all(one.end_s <= next_.begin_s for one, next_ in pairwise(there))


def test_a_length_that_is_changed_holds_for_what_comes(database: Engine) -> None:
    with database.begin() as connection:
        ensure(connection, "audit", [at("2026-11-24"), at("2026-11-27T12:00:00")], "day")
        ensure(connection, "audit", [at("2026-11-25"), at("2026-11-24T05:00:00"), at("2026-12-24")], "month")
        assert sorted(each.name for each in existing(connection, "audit")) == [
            "audit_20261124_20261125",
            "audit_20261125_20261127",
            "audit_20261127_20261128",
            "audit_20261201_20270101",
        ]
        assert existing(connection, "attempt") == []
