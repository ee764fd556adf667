"""Percentiles, differences and targets, on made-up runs."""

from pathlib import Path

import pytest

from bench import envoy_alone, report, scenarios
from bench.runs import Latency, Run, latency, percentile
from bench.scenarios import TargetName
from control import render
from extproc.paths import Paths
from extproc.settings import parse


def run(target: TargetName, number: int, p50: float, *, scenario: str = "plain-167", **changes: object) -> Run:
    values: dict[str, object] = {
        "scenario": scenario,
        "target": target,
        "round": number,
        "seconds": 10.0,
        "sent": 100,
        "errors": {},
        "total_ms": Latency(p50, p50 * 2, p50 * 3),
        "first_byte_ms": None,
        "late_ms": None,
        "events": 0,
        "body_bytes": 0,
        "connections": 1,
        "cpu_us": {"envoy": 200.0, "provider": 100.0, "worker 0": 300.0, "settler": 50.0},
        "rss_bytes": {"worker 0": 1},
        "client_cpu_us": 1.0,
        "others_cores": 0.1,
    }
    return Run(**values | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (90, 90), (99, 99), (100, 100), (1, 1)])
def test_percentiles_are_nearest_rank(percent: int, expected: int) -> None:
    assert percentile(range(1, 101), percent) == expected


def test_percentiles_of_few_samples() -> None:
    assert [percentile([7], percent) for percent in (1, 50, 99)] == [7, 7, 7]
    assert percentile([1, 2, 3, 4], 50) == 2
    assert latency([3000, 1000, 2000]) == Latency(2.0, 3.0, 3.0)
    assert latency([]) is None


def test_what_was_added_is_the_median_of_differences_within_a_round() -> None:
    pairs = [(1, 5.0, 1.0), (2, 3.0, 2.0), (3, 20.0, 18.5)]
    runs = [r for number, ours, base in pairs for r in (run("gateway", number, ours), run("envoy", number, base))]
    found = {item.text: item for item in report.targets(runs)}
    p50, p99 = list(found.values())[:2]
    assert p50.value == pytest.approx(1.5)  # of 4, 1 and 1.5
    assert p50.met is True
    assert p99.value == pytest.approx(4.5)  # of 12, 3 and 4.5
    cpu = next(item for text, item in found.items() if "per whole answer" in text)
    assert (cpu.value, cpu.met) == (350.0, True)  # neither Envoy nor the provider


def test_the_workers_alone_count_for_what_only_they_do() -> None:
    cpu = {"envoy": 5_000.0, "settler": 50.0, "worker 0": 7_000.0, "worker 1": 5_000.0}
    found = {
        item.text: item.value
        for item in report.targets(
            [
                run("gateway", 1, 1.0, scenario="translated-stream-20", cpu_us=cpu),
                run("gateway", 1, 1.0, scenario="body-10m", cpu_us=cpu),
            ]
        )
    }
    assert found["CPU of the workers, per chunk of a translated stream"] == 60
    assert found["CPU of the workers, per request of 10 MiB"] == 12_000


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert [item.met for item in report.targets([run("direct", 1, 1.0)])] == [None] * 7
    assert "not measured" in report.text([run("direct", 1, 1.0)], {})


def test_one_error_misses_the_long_run() -> None:
    good = run("gateway", 0, 1000.0, scenario="stream-167")
    bad = run("gateway", 0, 1000.0, scenario="stream-167", errors={"status 503": 1})
    assert report.targets([good])[-1].met is True
    assert report.targets([bad])[-1].met is False
    assert "1 x status 503" in report.text([bad], {})


def test_a_run_without_one_right_answer_is_reported() -> None:
    failed = run("gateway", 1, 1.0, total_ms=None, errors={"status 500": 100})
    assert "100 x status 500" in report.text([failed, run("envoy", 1, 1.0)], {})


def test_envoy_alone_is_the_gateways_envoy_less_what_is_the_gateways(tmp_path: Path) -> None:
    config = scenarios.config(18080, 19000, str(tmp_path))
    settings, paths = parse(str(config), {}), Paths.of(tmp_path)
    document = envoy_alone.render(settings, paths, 18081)
    listener = document["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert [item["name"] for item in manager["http_filters"]] == ["envoy.filters.http.router"]
    assert listener["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 18081}
    assert "access_log" not in manager
    rendered = render.render(settings, paths)["lds.json"]["resources"][0]
    assert listener["per_connection_buffer_limit_bytes"] == rendered["per_connection_buffer_limit_bytes"]
