"""What the alert rules and the dashboard name, metrics, labels and values, a running gateway shows on /metrics."""

import re
from collections import defaultdict

import httpx
import pytest

from tests.deploy.queries import OF_PROMETHEUS, grouped, queries, selectors
from tests.envoy.harness import ADMIN_KEY, Config, Gateway, Simulator, ask, bearer, marker, uploads, wait_until

_SAMPLE = re.compile(r"(?m)^([a-z_]+?)(?:{(.*)})? [^ ]+$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_WORDS = re.compile(r"[\w-]+(\|[\w-]+)*")  # a regular expression that only lists values
FILLING = 12  # of 30 MiB: more than one team has room for

Seen = dict[str, list[dict[str, str]]]  # the labels of every sample, by its name


@pytest.fixture(scope="module")
def config(config: Config) -> Config:
    config["teams"].append({"id": "team-poor", "keys": ["sk-poor"], "budget": {"daily_tokens": 1, "daily_usd": 100}})
    return config | {"cache": {"exact": True, "coalesce_wait": "3s"}}


def send(gateway: Gateway, primary: Simulator) -> int:
    """A request of each kind that a query asks for. Returns how many of them have a row."""

    def post(text: str, key: str = "sk-team", **more: object) -> httpx.Response:
        return gateway.http.post("/v1/chat/completions", json=ask(text, **more), headers=bearer(key))

    found: list[str] = []

    def hit() -> bool:
        found.append(post("Hello").headers["x-gateway-cache"])
        return found[-1] == "hit"

    wait_until(hit, 20, "an answer from the cache, which is kept behind the first one's back")
    assert post(marker(chunks=4), stream=True).status_code == 200
    assert post(marker(status=500)).status_code == 502
    assert post("Hello", "sk-poor").status_code == 429
    assert post("Hello", "sk-nobody").status_code == 401
    primary.faults({"status": 503})
    assert post("Hello", model="gpt-ha").status_code == 200
    with uploads(gateway, FILLING):
        wait_until(lambda: any(row["error_code"] == "overloaded" for row in gateway.rows()), 20, "one to be refused")
    return len(found) + 4 + FILLING


@pytest.fixture(scope="module")
def seen(gateway: Gateway, simulators: tuple[Simulator, Simulator]) -> tuple[Seen, set[str]]:
    """The samples of a gateway that had such requests, and the names of all families."""
    sent = send(gateway, simulators[0])
    wait_until(lambda: len(gateway.rows(ADMIN_KEY)) == sent, 30, "the rows")
    wait_until(lambda: 'gateway_provider_error_ratio{provider="openai",model=""' in metrics(gateway), 30, "figures")
    # Each worker adds what its cache did to the shared state's counts, by and by.
    wait_until(lambda: "gateway_cache_saved_cost_usd_total{" in metrics(gateway), 30, "what the cache has saved")
    text = metrics(gateway)
    samples: Seen = defaultdict(list)
    for name, labels in _SAMPLE.findall(text):
        samples[name].append(dict(_LABEL.findall(labels)))
    return samples, set(re.findall(r"(?m)^# TYPE (\w+) ", text))


def metrics(gateway: Gateway) -> str:
    return gateway.http.get("/metrics").text


def family(name: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", name)


@pytest.mark.parametrize("query", queries().values(), ids=queries().keys())
def test_what_is_asked_for_is_shown(query: str, seen: tuple[Seen, set[str]]) -> None:
    samples, families = seen
    known: set[str] = set()
    for name, matchers in selectors(query):
        if ":" in name:
            continue  # recorded by another rule
        assert name in families or family(name) in families, f"there is no metric {name}"
        known |= {label for sample in samples[name] for label in sample}
        for label, operator, value in matchers:
            values = {sample[label] for sample in samples[name] if label in sample}
            assert values, f"no sample of {name} has a label {label}"
            if operator == "Equal" or (operator == "Re" and _WORDS.fullmatch(value)):
                assert set(value.split("|")) <= values, f"{name} is never shown with {label} {value}"
    assert grouped(query) - OF_PROMETHEUS <= known
