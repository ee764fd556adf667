"""Metric families: their names in Prometheus, and as OTLP sends them."""

from opentelemetry.sdk.metrics.export import Histogram, Sum

from control.families import Distribution, Family, Sample
from control.otlp_export import metrics_data
from control.prometheus import text
from extproc.settings import Telemetry

LABELS = {"gen_ai.provider.name": "openai", "team": 'a"b'}
USAGE = Family(
    name="gen_ai.client.token.usage",
    unit="{token}",
    kind="histogram",
    text="Tokens.",
    bounds=(1.0, 4.0),
    distributions=[Distribution(LABELS, (2, 0, 1), 12.5)],
)
REQUESTS = Family(name="gateway.requests", kind="counter", text="Requests.", samples=[Sample({}, 3)])
LAG = Family(name="gateway.settlement.lag", unit="s", kind="gauge", text="Lag.", samples=[Sample({}, 0.25)])


def test_prometheus() -> None:
    labels = 'gen_ai_provider_name="openai",team="a\\"b"'
    assert text([USAGE, REQUESTS, LAG]).splitlines() == [
        "# HELP gen_ai_client_token_usage Tokens.",
        "# TYPE gen_ai_client_token_usage histogram",
        f'gen_ai_client_token_usage_bucket{{{labels},le="1"}} 2',
        f'gen_ai_client_token_usage_bucket{{{labels},le="4"}} 2',
        f'gen_ai_client_token_usage_bucket{{{labels},le="+Inf"}} 3',
        f"gen_ai_client_token_usage_sum{{{labels}}} 12.5",
        f"gen_ai_client_token_usage_count{{{labels}}} 3",
        "# HELP gateway_requests_total Requests.",
        "# TYPE gateway_requests_total counter",
        "gateway_requests_total 3",
        "# HELP gateway_settlement_lag_seconds Lag.",
        "# TYPE gateway_settlement_lag_seconds gauge",
        "gateway_settlement_lag_seconds 0.25",
    ]


def test_otlp() -> None:
    data = metrics_data([USAGE, REQUESTS, LAG], Telemetry(service_name="gw"), began_s=1.0, now_s=2.0)
    (sent,) = data.resource_metrics
    assert sent.resource.attributes["service.name"] == "gw"
    usage, requests, lag = sent.scope_metrics[0].metrics
    assert isinstance(usage.data, Histogram)
    (point,) = usage.data.data_points
    assert (point.count, point.sum, point.bucket_counts) == (3, 12.5, [2, 0, 1])
    assert (point.start_time_unix_nano, point.time_unix_nano) == (1_000_000_000, 2_000_000_000)
    assert point.attributes == LABELS
    assert isinstance(requests.data, Sum)
    assert requests.data.is_monotonic
    assert lag.data.data_points[0].value == 0.25
