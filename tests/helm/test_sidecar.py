"""The gateway beside an application: an application's own chart takes the containers, and its pod is run."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.envoy.harness import Simulator, free_port, wait_until
from tests.helm import image
from tests.helm.chart import CHART, ROOT, containers, gateway_yaml, of_kind, pod_of, render
from tests.helm.node import POSSIBLE, Pod
from tests.helm.test_chart import judge, locked_down

# Asks the gateway once a second, and once more when it is told to stop.
APPLICATION = """
import json, os, signal, sys, time, urllib.request

def ask():
    body = {"model": "gpt", "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"authorization": "Bearer sk-team", "content-type": "application/json"}
    url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    print("asked", urllib.request.urlopen(request, timeout=10).status, flush=True)

def stop(*_):
    ask()
    sys.exit(0)

signal.signal(signal.SIGTERM, stop)
ask()
while True:
    time.sleep(1)
"""


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The application's chart with its dependency fetched, as `helm dependency build` does."""
    folder = tmp_path_factory.mktemp("chart") / "app"
    shutil.copytree(ROOT / "tests" / "helm" / "app", folder)
    shutil.copytree(CHART, folder / "charts" / "llm-gateway")
    return folder


@pytest.fixture(scope="module")
def provider() -> Iterator[Simulator]:
    simulator = Simulator()
    yield simulator
    simulator.stop()


def values(provider: Simulator) -> dict[str, Any]:
    config = {
        "listen": {"port": free_port(), "ops": {"port": free_port()}},
        "workers": 1,
        "providers": {"openai": {"format": "openai", "base_url": provider.base_url("openai")}},
        "models": [{"name": "gpt", "provider": "openai"}],
        "teams": [{"id": "app", "keys": ["sk-team"]}],
    }
    credentials = {"openai": {"secret": "llm-keys", "key": "openai"}}
    return {
        "command": ["python3", "-c", APPLICATION],
        "llm-gateway": {"config": config, "credentials": credentials, "serviceMonitor": {"enabled": True}},
    }


def test_it_is_rendered_into_the_applications_pod(chart: Path, provider: Simulator) -> None:
    manifests = render(values(provider), chart=chart)
    judge(manifests)
    pod = pod_of(manifests)
    assert list(containers(pod)) == ["watch", "extproc", "control", "envoy", "app"]
    for sidecar in pod["spec"]["initContainers"]:
        assert sidecar["restartPolicy"] == "Always"
        locked_down(sidecar, {})
    assert "lifecycle" not in containers(pod)["envoy"], "it serves until the application has ended"
    assert "127.0.0.1" in gateway_yaml(manifests)
    assert {one["kind"] for one in manifests} == {"Deployment", "ConfigMap", "PodMonitor"}, "nothing else is made"
    assert of_kind(manifests, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"] == "ops"


def test_the_readme_shows_what_is_tested() -> None:
    readme = (ROOT / "README.md").read_text()
    template = (ROOT / "tests" / "helm" / "app" / "templates" / "deployment.yaml").read_text()
    lines = [line.strip() for line in template.splitlines() if "llm-gateway.sidecar" in line]
    assert len(lines) == 3
    assert [line for line in lines if line not in readme] == []


@pytest.mark.skipif(not POSSIBLE, reason="no mount namespaces here: needs root")
def test_the_application_is_served_to_its_very_end(chart: Path, provider: Simulator, tmp_path: Path) -> None:
    """Also the request that it makes after SIGTERM: Envoy ends after it."""
    manifests = render(values(provider), chart=chart)
    name = next(one["metadata"]["name"] for one in manifests if one["kind"] == "ConfigMap")
    configs = {name: {"gateway.yaml": gateway_yaml(manifests)}}
    secrets = {"llm-keys": {"openai": "sk-provider-7d1f9a"}}
    pod = Pod(pod_of(manifests), image.build(tmp_path), tmp_path / "pod", configs=configs, secrets=secrets)
    try:
        pod.start()
        wait_until(lambda: "asked 200" in pod["app"].log(), 20, "the application's first request")
        codes = pod.terminate()
    finally:
        pod.kill()
    assert pod["app"].log().split("\n") == ["asked 200", "asked 200", ""]
    assert codes == {"app": 0, "envoy": 0, "control": 0, "extproc": 0, "watch": 0}
