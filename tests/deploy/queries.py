"""The PromQL of the files in deploy/: every query by where it is, and what of the metrics it speaks of.

In: the alert rules and the dashboard. Out: queries as Prometheus gets them, and the series and labels they name.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "gateway.json"
OF_PROMETHEUS = {"instance", "job", "le"}  # labels that no sample of ours has, or not as a label
# What Grafana puts in before it asks.
_VARIABLES = {"$__rate_interval": "5m", "$team": ".*", "$model": ".*"}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())


def queries() -> dict[str, str]:
    found = {str(rule.get("alert") or rule["record"]): rule["expr"] for rule in rules()}
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            found[f"{panel['title']}, {target['refId']}"] = _plain(target["expr"])
    return found


def _plain(query: str) -> str:
    for name, value in _VARIABLES.items():
        query = query.replace(name, value)
    return query


def shown_labels() -> Iterator[tuple[str, str, set[str]]]:
    """Where labels are written out (legends, summaries): the place, its query, the labels."""
    for rule in rules():
        text = " ".join(rule.get("annotations", {}).values())
        yield str(rule.get("alert") or rule["record"]), rule["expr"], set(re.findall(r"\$labels\.(\w+)", text))
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            found = set(re.findall(r"{{\s*(\w+)\s*}}", target["legendFormat"]))
            yield panel["title"], _plain(target["expr"]), found


def walked(query: str) -> list[Any]:
    """Every node of a query. Raises ValueError where it is none."""
    nodes: list[Any] = []
    promql.walk(promql.parse(query), nodes.append)
    return nodes


def selectors(query: str) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """The series a query reads: the name, and (label, operator, value) of each matcher."""
    return [
        (node.name, [(each.name, str(each.op).removeprefix("MatchOp."), each.value) for each in node.matchers.matchers])
        for node in walked(query)
        if isinstance(node, promql.VectorSelector)
    ]


def grouped(query: str) -> set[str]:
    """The labels a query groups or matches by."""
    found: set[str] = set()
    for node in walked(query):
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            found |= set(node.modifier.labels)
        elif isinstance(node, promql.BinaryExpr) and node.modifier is not None and node.modifier.matching is not None:
            found |= set(node.modifier.matching.labels)
    return found
