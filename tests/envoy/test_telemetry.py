"""Traces and metrics of requests through a real Envoy, as a collector gets them."""

from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.envoy.harness import (
    ADMIN_KEY,
    TEAM_KEY,
    Config,
    Gateway,
    Simulator,
    ask,
    bearer,
    marker,
    running,
    wait_until,
)
from tests.telemetry.collector import Collector

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


@pytest.fixture(scope="module")
def config(config: Config, collector: Collector) -> Config:
    telemetry = {"otlp_endpoint": collector.url, "metrics_interval": "1s"}
    return config | {"telemetry": telemetry}


def spans(collector: Collector, trace_id: str) -> dict[str, Any]:
    wait_until(lambda: collector.trace(trace_id), 30, f"the trace {trace_id}")
    return collector.trace(trace_id)


def attributes(span: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


def test_the_clients_trace_goes_on(gateway: Gateway, collector: Collector) -> None:
    answer = gateway.client().chat.completions.create(**ask("Say hello", "gpt-ha"), extra_headers=PARENT)
    found = spans(collector, TRACE)
    root = found["chat gpt-ha"]
    assert root.parent_span_id.hex() == "00f067aa0ba902b7"
    assert {"decide", "read", "route", "reserve", "chat openai", "settle"} < set(found)
    assert answer.usage is not None
    assert attributes(root)["gen_ai.usage.output_tokens"] == answer.usage.completion_tokens
    row = gateway.row(attributes(root)["gateway.request_id"])
    assert row["trace_id"] == TRACE
    assert row["steps_us"]["reserve"] > 0


def test_a_failover_shows_each_attempt(gateway: Gateway, collector: Collector, primary: Simulator) -> None:
    primary.faults({"status": 503})
    raw = gateway.client().chat.completions.with_raw_response.create(**ask("Hello", "gpt-ha"))
    request_id = raw.headers["x-gateway-request-id"]
    found = spans(collector, request_id.replace("-", ""))
    assert attributes(found["chat openai"])["http.response.status_code"] == 503
    assert attributes(found["chat anthropic-b"])["gen_ai.provider.name"] == "anthropic"
    assert attributes(found["chat gpt-ha"])["gateway.status"] == "fallback"


def test_a_refused_request_has_a_trace(gateway: Gateway, collector: Collector) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        gateway.client().chat.completions.create(**ask("Hello", "nothing"))
    found = spans(collector, caught.value.response.headers["x-gateway-request-id"].replace("-", ""))
    assert attributes(found["chat nothing"])["error.type"] == "model_not_found"
    assert gateway.row(caught.value.response.headers["x-gateway-request-id"])["model_requested"] == "nothing"


def test_no_key_and_no_message_is_told(gateway: Gateway, collector: Collector) -> None:
    raw = gateway.client().chat.completions.with_raw_response.create(**ask("A secret prompt 7261"))
    spans(collector, raw.headers["x-gateway-request-id"].replace("-", ""))
    told = b"".join(span.SerializeToString() for span in collector.spans)
    assert b"7261" not in told
    assert TEAM_KEY.encode() not in told


def test_metrics_agree_with_prometheus_and_the_rows(gateway: Gateway, collector: Collector) -> None:
    gateway.client().chat.completions.create(**ask("Count me"))
    wait_until(lambda: "gen_ai.client.token.usage" in collector.metrics, 30, "metrics")

    def agree() -> bool:
        rows = gateway.rows(ADMIN_KEY)
        wanted = sum(row["input_tokens"] + row["output_tokens"] for row in rows)
        points = collector.metrics["gen_ai.client.token.usage"].histogram.data_points
        text = gateway.http.get("/metrics").text
        shown = [line for line in text.splitlines() if line.startswith("gen_ai_client_token_usage_sum")]
        return bool(wanted == sum(point.sum for point in points) == sum(float(line.split()[-1]) for line in shown))

    wait_until(agree, 30, "the same numbers in all three")


def test_a_slow_collector_holds_up_no_request(gateway: Gateway, collector: Collector) -> None:
    collector.delay_s, before = 4.0, collector.traces
    try:
        raws = [
            gateway.http.post("/v1/chat/completions", json=ask(marker(chunks=2)), headers=bearer()) for _ in range(20)
        ]
        assert {gateway.row(raw.headers["x-gateway-request-id"])["status"] for raw in raws} == {"success"}
        assert collector.traces < before + 20, "all were answered and settled before it had taken their traces"
    finally:
        collector.delay_s = 0.0
    wait_until(lambda: collector.traces >= before + 20, 40, "every trace, all the same")


def test_a_dead_collector_slows_nothing(new_config: Callable[[], Config]) -> None:
    telemetry = {"otlp_endpoint": "http://127.0.0.1:9", "metrics_interval": "1s"}
    with running(new_config() | {"telemetry": telemetry}) as gateway:
        request_ids = [
            gateway.http.post("/v1/chat/completions", json=ask(marker(chunks=2)), headers=bearer()).headers[
                "x-gateway-request-id"
            ]
            for _ in range(20)
        ]
        assert {gateway.row(each)["status"] for each in request_ids} == {"success"}
        wait_until(lambda: "collector does not take traces" in gateway.log(), 30, "the log line")
        assert gateway.log().count("collector does not take traces") == 1
