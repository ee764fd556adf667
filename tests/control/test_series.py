"""Figures over time: from rows and from sums, a team's own, and what `auto` saved."""

from typing import Any

import msgspec
import pytest

from control import series
from extproc.catalog import Catalog, compile_catalog
from extproc.errors import InvalidRequest
from extproc.settings import parse
from extproc.settle.journal import Batch
from tests.audit.stores import Kept
from tests.settle.builders import STARTED_S, attempt, audit

NOW_S = STARTED_S + 120.0
SETTINGS = """
providers: {openai: {format: openai, base_url: "http://127.0.0.1:9"}}
models:
  - {name: gpt, provider: openai, price: {input: 1.0, output: 2.0}}
  - {name: big, provider: openai, price: {input: 10.0, cached_input: 5.0, output: 20.0}}
  - {name: unpriced, provider: openai}
routing: {auto: {simple: [gpt], hard: [HARD]}}
teams: [{id: team-search, keys: [sk-search]}]
"""


def catalog(hard: str = "big") -> Catalog:
    return compile_catalog(parse(SETTINGS.replace("HARD", hard), {}))


def usage(store: Kept, window: str, team: str | None = None) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = msgspec.to_builtins(
        series.usage(store.connection, series.WINDOWS[window], team, NOW_S).points
    )
    return points


def test_the_last_hour_is_told_by_the_minute(store: Kept) -> None:
    rows = [
        audit("a"),
        audit("b", received_at=STARTED_S + 61, latency_ms=100.0),
        audit("c", received_at=STARTED_S + 62),
    ]
    store.write(Batch(rows))
    points = usage(store, "1h")
    assert [point["requests"] for point in points] == [1, 2]
    assert points[1] == {
        "at": "2026-09-21T14:14:00.000Z",
        "team_id": "team-search",
        "model": "gpt",
        "requests": 2,
        "failed": 0,
        "input_tokens": 200,
        "output_tokens": 100,
        "cost_usd": 0.0004,
        "latency_ms": 500.0,
    }


@pytest.mark.parametrize("window", ["24h", "7d", "30d"])
def test_longer_windows_agree_with_the_rows(store: Kept, window: str) -> None:
    store.write(Batch([audit("a"), audit("b", status="failed", model_used="big"), audit("c", team_id="other")]))
    points = usage(store, window)
    assert sum(point["requests"] for point in points) == 3
    assert sum(point["failed"] for point in points) == 1
    assert {point["model"] for point in points} == {"gpt", "big"}


@pytest.mark.parametrize("window", list(series.WINDOWS))
def test_a_team_sees_its_own(store: Kept, window: str) -> None:
    store.write(Batch([audit("a"), audit("b", team_id="other")]))
    assert [point["team_id"] for point in usage(store, window, "other")] == ["other"]


def test_what_is_older_is_left_out(store: Kept) -> None:
    store.write(Batch([audit("a", received_at=STARTED_S - 2 * 86_400)]))
    assert usage(store, "24h") == []
    assert len(usage(store, "7d")) == 1


def test_what_auto_saved(store: Kept) -> None:
    rows = [
        audit("a", cached_tokens=40),  # at `big`: 60 x 10,000 + 40 x 5,000 + 50 x 20,000 nano-USD
        audit("b", model_requested="gpt", routing_decision="pinned"),
        audit("c", status="refused", model_used=None, provider_used=None),
    ]
    store.write(Batch(rows))
    told = series.routing(store.connection, series.WINDOWS["24h"], None, NOW_S, catalog())
    assert msgspec.to_builtins(told.auto) == {
        "requests": 1,
        "cost_usd": 0.0002,
        "hard_model": "big",
        "always_hard_usd": 0.0018,
        "saved_usd": pytest.approx(0.0016),
    }
    assert {(each.auto, each.decision, each.requests) for each in told.decisions} == {
        (True, "simple_query", 1),
        (False, "pinned", 1),
    }


def test_an_unknown_price_saves_nothing_that_could_be_told(store: Kept) -> None:
    store.write(Batch([audit("a")]))
    told = series.routing(store.connection, series.WINDOWS["24h"], None, NOW_S, catalog("unpriced"))
    assert told.auto.saved_usd is None


def test_providers(store: Kept) -> None:
    tries = [attempt(f"r{n}", first_byte_ms=float(n), at=STARTED_S + 1) for n in range(100)]
    tries += [attempt("e", verdict="error", first_byte_ms=None, at=STARTED_S + 1), attempt("x", verdict="abandoned")]
    store.write(Batch((), tries))
    (point,) = series.providers(store.connection, series.WINDOWS["1h"], NOW_S).points
    assert (point.attempts, point.errors) == (101, 1)
    assert (point.p50_latency_ms, point.p99_latency_ms) == (50.0, 99.0)


def test_a_window_that_is_not_there() -> None:
    with pytest.raises(InvalidRequest, match="window must be one of 1h, 24h, 7d, 30d") as caught:
        series.window_of({"window": "1y"})
    assert caught.value.param == "window"
