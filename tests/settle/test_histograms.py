"""Audit rows -> histogram buckets."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.settle import histograms
from extproc.settle.sums import TABLES
from tests.settle.builders import audit

(HISTOGRAM,) = (table for table in TABLES if table.name == "histogram")


def counted(metric: histograms.Histogram, *rows: object) -> dict[tuple[str, int], tuple[float, float]]:
    return {(key[4], key[5]): (n, total) for *key, n, total in HISTOGRAM.added(rows) if key[0] == metric.name}


def test_a_value_on_a_bound_belongs_below_it() -> None:
    found = counted(histograms.TOKEN_USAGE, audit(input_tokens=64, output_tokens=65))
    assert found == {("input", 3): (1, 64), ("output", 4): (1, 65)}


def test_what_is_beyond_the_last_bound_is_counted_too() -> None:
    last = len(histograms.DURATION.bounds)
    assert counted(histograms.DURATION, audit(latency_ms=1e7)) == {("success", last): (1, 1e4)}


def test_times_of_tokens_are_those_of_served_streams_alone() -> None:
    served = audit(stream=True, latency_ms=1_100.0, first_byte_ms=100.0, output_tokens=11)
    cut = audit(stream=True, status="cancelled", first_byte_ms=100.0)
    whole = audit(stream=False, first_byte_ms=100.0)
    rows = (served, cut, whole)
    assert list(counted(histograms.FIRST_TOKEN, *rows).values()) == [(1, 0.1)]
    assert list(counted(histograms.OUTPUT_TOKEN, *rows).values()) == [(1, pytest.approx(0.1))]


@given(st.lists(st.floats(0, 1e6), max_size=20))
def test_taking_away_leaves_nothing(latencies: list[float]) -> None:
    rows = [audit(latency_ms=latency) for latency in latencies]
    left: dict[tuple[object, ...], list[float]] = {}
    for *key, n, total in [*HISTOGRAM.added(rows), *HISTOGRAM.added(rows, -1)]:
        entry = left.setdefault(tuple(key), [0, 0.0])
        entry[0] += n
        entry[1] += total
    assert all(n == 0 and math.isclose(total, 0, abs_tol=1e-6) for n, total in left.values())
