"""The chart rendered by Helm itself: by its library, which the lock installs.

In: values. Out: manifests as Kubernetes would get them.
"""

from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm"
EXAMPLES = sorted(CHART.glob("values-*.yaml"))

Manifest = dict[str, Any]
Values = dict[str, Any]


def example(name: str) -> Values:
    """The values of an example."""
    values: Values = yaml.safe_load((CHART / f"values-{name}.yaml").read_text())
    return values


def files(values: Values | None = None, *, chart: Path = CHART) -> dict[str, str]:
    """Template -> what Helm makes of it. Raises helm_python's errors where Helm refuses."""
    # Loaded anew each time: rendering takes a dependency that is switched off out of the chart for good.
    with helm_python.Chart.load(str(chart)) as loaded:
        made = loaded.render(values or {}, name="gw", namespace="llm")
    return {file: text for file, text in sorted(made.items()) if not file.endswith("NOTES.txt")}


def render(values: Values | None = None, *, chart: Path = CHART) -> list[Manifest]:
    """All manifests."""
    texts = files(values, chart=chart).values()
    return [document for text in texts for document in yaml.load_all(text, yaml.CSafeLoader) if document]


def of_kind(manifests: list[Manifest], kind: str) -> Manifest:
    """The only one of its kind that is not the dependency's."""
    found = [one for one in manifests if one["kind"] == kind and not one["metadata"]["name"].endswith("-valkey")]
    assert len(found) == 1, f"{len(found)} of kind {kind}"
    return found[0]


def pod_of(manifests: list[Manifest]) -> Manifest:
    """The pod template of the gateway's Deployment."""
    template: Manifest = of_kind(manifests, "Deployment")["spec"]["template"]
    return template


def containers(pod: Manifest) -> dict[str, Manifest]:
    """All of a pod's containers by name, in the order of starting."""
    return {one["name"]: one for one in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]}


def gateway_yaml(manifests: list[Manifest]) -> str:
    """What the ConfigMap holds."""
    found = [one for one in manifests if one["kind"] == "ConfigMap" and "gateway.yaml" in one["data"]]
    text: str = found[0]["data"]["gateway.yaml"]
    return text
