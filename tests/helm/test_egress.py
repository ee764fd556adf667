"""The ports that a NetworkPolicy opens: those of the URLs in `config`, unless they are set."""

import pytest

from tests.helm.chart import Values, of_kind, render

USUAL: Values = {
    "providers": {"openai": {"format": "openai", "base_url": "https://api.openai.com/v1"}},
    "models": [{"name": "gpt", "provider": "openai"}],
    "teams": [{"id": "a", "keys": ["k"]}],
    "state": {"url": "redis://valkey"},
}
ELSEWHERE: Values = {
    "providers": {
        "own": {"format": "openai", "base_url": "http://vllm.models:8000/v1"},
        "plain": {"format": "openai", "base_url": "http://10.0.0.7/v1"},
    },
    "models": [{"name": "gpt", "provider": "own"}],
    "teams": [{"id": "a", "keys": ["k"], "alert": {"webhook": "https://hooks.example.com:8443/x"}}],
    "state": {"url": "redis+sentinel://:s3cret:1@one:26380,two/mymaster"},
    "audit": {"url": "postgresql://user:p%40ss@db:5433/rows?sslmode=verify-full"},
    "telemetry": {"otlp_endpoint": "http://collector:4318"},
    "cors": {"allow_origins": ["http://localhost:3000"]},
}


@pytest.mark.parametrize(
    ("values", "ports"),
    [
        ({}, [443]),
        ({"config": USUAL}, [443, 6379]),
        ({"config": ELSEWHERE}, [80, 443, 4318, 5433, 6379, 8000, 8443, 26379, 26380]),
        ({"config": USUAL | {"state": {}, "audit": {"url": "${AUDIT_URL}"}}}, [443, 5432]),
        ({"config": USUAL | {"state": {}}, "valkey": {"enabled": True}}, [443, 6379]),
        ({"config": ELSEWHERE, "networkPolicy": {"egressPorts": [8443]}}, [8443]),
    ],
    ids=["trial", "usual", "all kinds", "a variable", "the chart's state", "set"],
)
def test_pods_may_call_what_their_configuration_names(values: Values, ports: list[int]) -> None:
    _, called = of_kind(render(values), "NetworkPolicy")["spec"]["egress"]
    assert sorted(one["port"] for one in called["ports"]) == ports
