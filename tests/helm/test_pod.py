"""The chart's pod, run: what Helm renders is started as a kubelet would, in the image's own tree, and serves."""

import importlib.metadata
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.envoy.harness import PROVIDER_KEY, Simulator, ask, bearer, free_port, marker, wait_until
from tests.helm import image
from tests.helm.chart import gateway_yaml, pod_of, render
from tests.helm.node import POSSIBLE, Pod

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="no mount namespaces here: needs root")
VERSION = importlib.metadata.version("llm-gateway")
KEYS = {"team": "sk-team", "admin": "sk-admin"}


class Installed:
    """A release of the chart with its pod running."""

    def __init__(self, folder: Path, tree: Path, provider: Simulator) -> None:
        self.port, self.ops_port = free_port(), free_port()
        self.values: dict[str, Any] = {
            "config": {
                "listen": {"port": self.port, "ops": {"port": self.ops_port}},
                "workers": 2,
                "admin": {"keys": ["${ADMIN_KEY}"]},
                "providers": {"openai": {"format": "openai", "base_url": provider.base_url("openai")}},
                "models": [{"name": "gpt", "provider": "openai"}],
                "teams": [{"id": "team-a", "keys": ["${TEAM_KEY}"]}],
                "timeouts": {"request": "20s"},
                "breaker": {"open_for": "100ms", "probe_share": 1.0},
            },
            "credentials": {"openai": {"secret": "llm-keys", "key": "openai"}},
            "envFrom": [{"secretRef": {"name": "gateway-keys"}}],
            "drain": {"acceptSeconds": 1},
        }
        self.secrets = {
            "llm-keys": {"openai": PROVIDER_KEY},
            "gateway-keys": {"TEAM_KEY": KEYS["team"], "ADMIN_KEY": KEYS["admin"]},
        }
        manifests = render(self.values)
        configs = {"gw-llm-gateway": {"gateway.yaml": gateway_yaml(manifests)}}
        self.pod = Pod(pod_of(manifests), tree, folder, configs=configs, secrets=self.secrets)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"http://127.0.0.1:{self.port}/v1", api_key=KEYS["team"], max_retries=0, timeout=30
        )

    def upgrade(self, **changes: Any) -> None:
        """`helm upgrade` with another `config`, as far as the ConfigMap."""
        self.values["config"] |= changes
        text = gateway_yaml(render(self.values))
        self.pod.volumes.update(configs={"gw-llm-gateway": {"gateway.yaml": text}})

    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/v1/config", headers=bearer(KEYS["admin"])).json()
        return found

    def metric(self, name: str) -> float:
        text = httpx.get(f"http://127.0.0.1:{self.ops_port}/metrics", timeout=10).text
        return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)", text, re.M))

    def status(self) -> int:
        """Of one request, whoever answers."""
        answer = self.http.post("/v1/chat/completions", json=ask("Hello"), headers=bearer(KEYS["team"]))
        return answer.status_code


@pytest.fixture(scope="module")
def provider() -> Iterator[Simulator]:
    simulator = Simulator()
    yield simulator
    simulator.stop()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image.build(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def installed(provider: Simulator, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    release = Installed(tmp_path_factory.mktemp("pod"), tree, provider)
    try:
        release.pod.start()
        yield release
    finally:
        release.pod.kill()


# The tests of this file share the pod, and end it: their order matters.


def test_it_serves_through_the_official_sdk(installed: Installed) -> None:
    client = installed.client()
    answer = client.chat.completions.create(**ask("Hello"))
    assert answer.choices[0].finish_reason == "stop"
    chunks = list(client.chat.completions.create(**ask("Hello"), stream=True))
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert installed.http.get("/metrics").status_code == 404, "metrics are for those who run it"
    wait_until(lambda: installed.metric("gateway_requests_total") == 2, 20, "both requests in the metrics")


def test_the_images_command_runs_in_its_tree(installed: Installed) -> None:
    watch = installed.pod["watch"]
    assert watch.run(["gateway", "--version"]).stdout == f"gateway, version {VERSION}\n"
    checked = watch.run(["gateway", "check", "/etc/gateway/config/gateway.yaml"])
    assert checked.returncode == 0, checked.stderr
    assert f"listens on 0.0.0.0:{installed.port}" in checked.stdout
    reloaded = watch.run(["gateway", "reload", "--config", "/etc/gateway/config/gateway.yaml"])
    assert (reloaded.returncode, reloaded.stdout) == (0, "unchanged\n"), reloaded.stderr
    elsewhere = watch.run(["python3", "-c", "import extproc, numpy; print(extproc.__file__, numpy.__file__)"]).stdout
    assert elsewhere.split() == [f"/opt/gateway/lib/{name}/__init__.py" for name in ("extproc", "numpy")]


def test_credentials_are_where_they_are_needed_and_nowhere_else(installed: Installed) -> None:
    """Only the container that renders, and Envoy, can read the provider's key; none can write where it must not."""
    look = f"grep -rl {PROVIDER_KEY} /var/lib/gateway /etc/gateway /tmp 2>/dev/null; cat /proc/1/environ 2>/dev/null"
    found = {name: installed.pod[name].run(["bash", "-c", look]).stdout for name in ("extproc", "control")}
    assert found == {"extproc": "", "control": ""}
    assert "secrets/openai.json" in installed.pod["envoy"].run(["bash", "-c", look]).stdout
    for name, where in (("envoy", "/var/lib/gateway/envoy/x"), ("control", "/opt/gateway/x"), ("watch", "/etc/x")):
        refused = installed.pod[name].run(["touch", where])
        assert "Read-only file system" in refused.stderr or "Permission denied" in refused.stderr
    status = installed.pod["extproc"].run(["cat", "/proc/self/status"]).stdout
    assert re.search(r"^Uid:\s+65532\s", status, re.M)
    assert re.search(r"^CapBnd:\s+0+$", status, re.M)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.M)


def test_a_rotated_secret_is_used_without_a_restart(installed: Installed) -> None:
    processes = {one.name: one.process.pid for one in [*installed.pod.mains, *installed.pod.sidecars] if one.process}
    assert installed.status() == 200
    installed.pod.volumes.update(secrets={"llm-keys": {"openai": "sk-of-yesterday"}})
    wait_until(lambda: installed.status() == 502, 20, "the new key, which the provider refuses, in use")
    installed.pod.volumes.update(secrets={"llm-keys": {"openai": PROVIDER_KEY}})
    wait_until(lambda: installed.status() == 200, 40, "the right key in use")
    for one in [*installed.pod.mains, *installed.pod.sidecars]:
        assert one.process is not None
        assert (one.process.pid, one.process.poll()) == (processes[one.name], None), f"{one.name} goes on"


def test_a_changed_configmap_is_taken_over_and_a_wrong_one_refused(installed: Installed) -> None:
    before = installed.config()["version"]
    more = {"name": "gpt-new", "provider": "openai"}
    installed.upgrade(models=[*installed.values["config"]["models"], more])
    client = installed.client()

    def known() -> bool:
        return "gpt-new" in {model.id for model in client.models.list()}

    wait_until(lambda: all(known() for _ in range(8)), 20, "the new model at every worker")
    assert client.chat.completions.create(**ask("Hello", model="gpt-new")).model == "gpt-new"
    assert installed.config()["version"] != before
    assert installed.metric("gateway_config_last_reload_successful") == 1

    # Helm's schema cannot see it: a name that no provider has.
    installed.upgrade(models=[{"name": "gpt", "provider": "opanai"}])
    wait_until(lambda: installed.config()["status"] == "refused", 20, "the refusal")
    assert installed.config()["problems"] == ["models[0].provider: no provider is named opanai; did you mean openai?"]
    assert installed.metric("gateway_config_last_reload_successful") == 0
    wait_until(lambda: "configuration refused" in installed.pod["watch"].log(), 10, "a line in the log")
    assert known(), "the one before stays in force"


def test_the_container_that_watches_may_restart_under_a_wrong_configuration(installed: Installed) -> None:
    """A crash of it disturbs nobody: what is rendered stays, also while the ConfigMap is one that it refuses."""
    watch = installed.pod["watch"]
    watch.kill()
    watch.start()
    watch.await_passing("startupProbe")
    wait_until(lambda: watch.log().count("configuration refused") == 2, 20, "its word on the configuration")
    assert installed.status() == 200
    installed.upgrade(models=[{"name": "gpt", "provider": "openai"}])
    wait_until(lambda: installed.config()["status"] == "applied", 20, "the right one again")


def test_a_stream_in_flight_is_not_cut_when_the_pod_ends(installed: Installed) -> None:
    """preStop, SIGTERM and the grace period: the stream goes on to its end, new connections are taken for a while."""
    text = f"A story {marker(chunks=60, chunk_interval_ms=100)}"
    stream = installed.client().chat.completions.create(**ask(text), stream=True)
    next(iter(stream))
    codes: dict[str, int] = {}
    ending = threading.Thread(target=lambda: codes.update(installed.pod.terminate()))
    began = time.monotonic()
    ending.start()
    wait_until(lambda: not installed.pod["envoy"].passes("readinessProbe"), 10, "Envoy to say that it goes")
    assert installed.status() == 200, "who does not know yet that it goes is served"
    chunks = list(stream)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert time.monotonic() - began > 3, "it was in flight all the time"
    ending.join(60)
    assert codes == {"envoy": 0, "control": 0, "extproc": 0, "watch": 0}
    assert "drained" in installed.pod["watch"].log()
    with pytest.raises(httpx.ConnectError):
        installed.status()
