"""The alert rules and the dashboard by themselves: PromQL that parses, alerts that fire and are explained."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.queries import ALERTS, ROOT, dashboard, grouped, queries, rules, selectors, shown_labels

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)
UNIT_TESTS = Path(__file__).with_name("alerts_test.yaml")


@pytest.mark.parametrize("query", queries().values(), ids=queries().keys())
def test_every_query_is_promql(query: str) -> None:
    assert selectors(query)


def test_labels_that_are_written_out_survive_the_query() -> None:
    for place, query, labels in shown_labels():
        if grouped(query):
            assert labels <= grouped(query), place


def test_every_alert_says_what_it_is_and_what_to_do() -> None:
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    alerts = [rule for rule in rules() if "alert" in rule]
    assert [rule["alert"] for rule in alerts] == list(dict.fromkeys(rule["alert"] for rule in alerts))
    assert set(headings) == {rule["alert"] for rule in alerts}
    for rule in alerts:
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_a_recorded_series_is_made_where_it_is_read() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    read = {name for query in queries().values() for name, _ in selectors(query) if ":" in name}
    assert read <= recorded


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    found = dashboard()["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    for panel in found:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


def test_every_alert_is_tried() -> None:
    """By the unit tests below, whether or not promtool is here to run them."""
    tried = set(re.findall(r'alertname="(\w+)', UNIT_TESTS.read_text()))
    assert tried == {rule["alert"] for rule in rules() if "alert" in rule}


@needs_promtool
@pytest.mark.parametrize("arguments", [("check", "rules", ALERTS), ("test", "rules", UNIT_TESTS)], ids=str)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    command = [str(PROMTOOL), *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
