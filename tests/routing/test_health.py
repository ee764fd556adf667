"""Health of providers and their models: what an attempt changes, and what workers and people are told."""

from typing import Any

import pytest

from extproc.errors import UNSAID_RETRY_AFTER_S
from extproc.routing.health import FEWEST_FOR_LATENCY, Health, Seen, figures, together
from extproc.settings import Breaker

NOW = 1_000_000.0


def seen(**changes: Any) -> Seen:
    given = {"provider": "openai", "model": "gpt", "ending": "ok", "status": 200, "began_s": NOW, "ended_s": NOW}
    return Seen(**(given | changes))


@pytest.fixture
def health() -> Health:
    return Health(Breaker())


def test_a_failing_model_opens_its_own_circuit_and_that_of_a_provider_with_no_other(health: Health) -> None:
    changed = [health.observe(seen(ending="error", status=500), NOW) for _ in range(5)]
    assert changed == [[], [], [], [], ["openai", "openai/gpt"]]


def test_another_model_keeps_the_provider_in_use(health: Health) -> None:
    health.observe(seen(model="other"), NOW)
    changed = [health.observe(seen(ending="error", status=500), NOW) for _ in range(5)]
    assert changed[-1] == ["openai/gpt"]


def test_a_refused_credential_is_the_providers(health: Health) -> None:
    assert health.observe(seen(ending="error", status=401), NOW) == ["openai"]


def test_what_is_forbidden_may_be_one_model_alone(health: Health) -> None:
    assert health.observe(seen(ending="error", status=403), NOW) == ["openai/gpt"]
    assert health.observe(seen(ending="error", status=403, model="other"), NOW) == ["openai/other"]
    assert health.observe(seen(ending="error", status=403, model=""), NOW) == ["openai"]


@pytest.mark.parametrize(("said", "waited"), [(7.0, 7.0), (None, UNSAID_RETRY_AFTER_S), (3600.0, 60.0)])
def test_a_rate_limit_is_waited_for_and_opens_nothing(health: Health, said: float | None, waited: float) -> None:
    for _ in range(20):
        assert health.observe(seen(ending="rate_limited", status=429, retry_after_s=said), NOW) == []
    standings = health.standings({}, NOW)
    assert standings.limited_until_s == {"openai": NOW + waited}
    assert standings.circuits == {}
    assert health.standings({}, NOW + waited).limited_until_s == {}


def test_a_rate_limit_is_waited_for_from_when_it_was_answered(health: Health) -> None:
    health.observe(seen(ending="rate_limited", status=429, retry_after_s=7.0, ended_s=NOW - 2), NOW)
    assert health.limited_until_s == {"openai": NOW + 5}


def test_a_longer_wait_is_not_cut_by_a_shorter_one(health: Health) -> None:
    health.observe(seen(ending="rate_limited", status=429, retry_after_s=30.0), NOW)
    health.observe(seen(ending="rate_limited", status=429, retry_after_s=1.0), NOW)
    assert health.limited_until_s == {"openai": NOW + 30}
    assert not health.wait_for({"openai": NOW + 20})
    assert health.wait_for({"openai": NOW + 40, "google": NOW + 1})


def test_figures_over_replicas(health: Health) -> None:
    other = Health(Breaker())
    for n in range(90):
        health.observe(seen(first_byte_ms=float(n + 1), total_ms=1000.0), NOW)
    for _ in range(10):
        other.observe(seen(ending="error", status=500), NOW + 1)
    records = together({"a": health.records(NOW + 2), "b": other.records(NOW + 2)})
    found = figures(records["openai/gpt"])
    assert (found.attempts_1m, found.error_rate_1m, found.error_rate_5m) == (100, 0.1, 0.1)
    assert found.p50_latency_ms == pytest.approx(45, rel=0.02)
    assert found.p99_latency_ms == pytest.approx(90, rel=0.02)
    assert found.p50_total_ms == pytest.approx(1000, rel=0.01)
    assert (found.last_success_s, found.last_failure_s) == (NOW, NOW + 1)


def test_latencies_are_told_when_there_are_enough(health: Health) -> None:
    for _ in range(FEWEST_FOR_LATENCY - 1):
        health.observe(seen(first_byte_ms=100.0, stream=True), NOW)
    assert health.standings(health.records(NOW), NOW).latencies == {}
    health.observe(seen(first_byte_ms=100.0, stream=True), NOW)
    (key, latency), *_ = health.standings(health.records(NOW), NOW).latencies.items()
    assert key == "openai/gpt"
    assert latency.first_byte_p99_ms == pytest.approx(100, rel=0.05)
    assert latency.whole_p99_ms is None


def test_what_other_replicas_decided_counts(health: Health) -> None:
    other = Health(Breaker())
    for _ in range(5):
        other.observe(seen(ending="error", status=500), NOW)
    assert set(health.adopt(other.circuits())) == {"openai", "openai/gpt"}
    assert health.adopt(other.circuits()) == []
    assert set(health.standings({}, NOW).circuits) == {"openai", "openai/gpt"}


def test_new_settings_are_in_force_at_once(health: Health) -> None:
    health.observe(seen(), NOW)
    health.use(Breaker(consecutive_failures=1))
    assert health.observe(seen(ending="error", status=500), NOW) == ["openai", "openai/gpt"]
