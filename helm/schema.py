"""helm/values.schema.json, made from the types of gateway.yaml and those of the chart's own values below.

In: `extproc.settings.Settings`, `Values`. Out: JSON Schema, by which Helm refuses wrong values before it renders. `make
schema` writes it; `python -m helm.schema --check` says whether it is current.
"""

import json
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from extproc.settings import Settings
from extproc.settings.fields import Section

FILE = Path(__file__).with_name("values.schema.json")

Free = dict[str, Any]  # Kubernetes' own: its API server knows better
Frees = list[Free]
Quantities = dict[str, str | int | float]


class Image(Section):
    repository: str
    tag: str
    pullPolicy: Literal["Always", "IfNotPresent", "Never"]


class Resources(Section):
    requests: Quantities = Field(default={})
    limits: Quantities = Field(default={})


class Container(Section):
    resources: Resources


class Envoy(Container):
    image: Image
    concurrency: int = Field(ge=1)


class FromSecret(Section):
    """The key of a provider, in a Secret that is there."""

    secret: str = Field(min_length=1)
    key: str = Field(min_length=1)


class Store(Section):
    name: str
    kind: Literal["SecretStore", "ClusterSecretStore"]


class ExternalSecret(Section):
    enabled: bool
    store: Store
    refreshInterval: str
    remote: dict[str, Free]


class Autoscaling(Section):
    enabled: bool
    minReplicas: int = Field(ge=1)
    maxReplicas: int = Field(ge=1)
    targetCPUUtilization: int = Field(ge=1, le=100)


class Disruption(Section):
    enabled: bool
    maxUnavailable: int | str


class Drain(Section):
    acceptSeconds: int = Field(ge=0)


class Persistence(Section):
    enabled: bool
    size: str
    storageClass: str
    existingClaim: str


class Service(Section):
    type: Literal["ClusterIP", "NodePort", "LoadBalancer"]
    port: int = Field(ge=1, le=65535)
    annotations: dict[str, str]


class Ingress(Section):
    enabled: bool
    className: str
    annotations: dict[str, str]
    hosts: list[str]
    tls: Frees


class HttpRoute(Section):
    enabled: bool
    parentRefs: Frees
    hostnames: list[str]


class NetworkPolicy(Section):
    enabled: bool
    clients: Frees
    monitoring: Frees
    egressPorts: list[int]
    egress: Frees


class TopologySpread(Section):
    keys: list[str]
    whenUnsatisfiable: Literal["ScheduleAnyway", "DoNotSchedule"]


class ServiceAccount(Section):
    create: bool
    name: str
    annotations: dict[str, str]


class Monitor(Section):
    enabled: bool
    interval: str
    labels: dict[str, str]


class Labelled(Section):
    enabled: bool
    labels: dict[str, str]


class Otel(Section):
    resourceAttributes: dict[str, str]


class Valkey(Section):
    """The dependency's values, and the condition it is made on."""

    enabled: bool
    image: str = ""
    resources: Resources = Resources()
    # Helm adds it for a dependency.
    global_: Free = Field(default={}, alias="global")


class Values(Section):
    """All of them; what is not named is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["edge", "sidecar"]
    nameOverride: str
    fullnameOverride: str
    image: Image
    imagePullSecrets: Frees
    config: Free
    credentials: dict[str, FromSecret]
    externalSecret: ExternalSecret
    env: Frees
    envFrom: Frees
    envoy: Envoy
    extproc: Container
    control: Container
    watch: Container
    replicas: int = Field(ge=0)
    autoscaling: Autoscaling
    podDisruptionBudget: Disruption
    drain: Drain
    terminationGracePeriodSeconds: int | None = None
    persistence: Persistence
    service: Service
    ingress: Ingress
    httpRoute: HttpRoute
    networkPolicy: NetworkPolicy
    topologySpread: TopologySpread
    serviceAccount: ServiceAccount
    podLabels: dict[str, str]
    podAnnotations: dict[str, str]
    priorityClassName: str
    nodeSelector: dict[str, str]
    affinity: Free
    tolerations: Frees
    extraVolumes: Frees
    extraVolumeMounts: Frees
    serviceMonitor: Monitor
    dashboard: Labelled
    prometheusRule: Labelled
    otel: Otel
    valkey: Valkey
    global_: Free = Field(default={}, alias="global")


def schema() -> dict[str, Any]:
    """The schema of values.yaml. Of `config`, what is there must be a whole gateway.yaml."""
    values, settings = Values.model_json_schema(), Settings.model_json_schema()
    gateway = {"Gateway" + name: part for name, part in settings.pop("$defs").items()} | {"Gateway": settings}
    values["$defs"] |= _expandable(_renamed(gateway))
    values["properties"]["config"] = {"type": "object", "if": {"minProperties": 1}, "then": {"$ref": "#/$defs/Gateway"}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_lean(values)}


def _renamed(node: Any) -> Any:
    """References follow the new names: a section of gateway.yaml may be called as one of the chart's."""
    if isinstance(node, list):
        return [_renamed(item) for item in node]
    if isinstance(node, dict):
        return {
            key: value.replace("#/$defs/", "#/$defs/Gateway") if key == "$ref" else _renamed(value)
            for key, value in node.items()
        }
    return node


def _expandable(node: Any) -> Any:
    """Numbers and switches may also be written as `${NAME}`, which is expanded later."""
    if isinstance(node, list):
        return [_expandable(item) for item in node]
    if isinstance(node, dict):
        if node.get("type") in ("integer", "number", "boolean"):
            return {"anyOf": [node, {"type": "string", "pattern": r"\$\{"}]}
        return {key: _expandable(value) for key, value in node.items()}
    return node


def _lean(node: Any, *, names: bool = False) -> Any:
    """Without titles and defaults, which are Python's; values.yaml has those that count. `names`: the keys of this
    mapping are names, not words of JSON Schema."""
    if isinstance(node, list):
        return [_lean(item) for item in node]
    if isinstance(node, dict):
        return {
            key: _lean(value, names=key in ("properties", "$defs") and not names)
            for key, value in node.items()
            if names or key not in ("title", "default")
        }
    return node


def text() -> str:
    """The file's content."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if FILE.is_file() and FILE.read_text(encoding="utf-8") == text() else 1)
    FILE.write_text(text(), encoding="utf-8")
