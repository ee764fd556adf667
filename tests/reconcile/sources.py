"""What each of the sources says of the same requests, in the same words: totals that can be laid side by side.

In: a gateway, its simulators, a collector. Out: `Requests` by team and status, `Tokens` by team. A source that has no
teams is asked for all of them together.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from extproc.budget.redis import RedisLedger
from extproc.budget.windows import windows_at
from extproc.state.redis_py import connect
from tests.envoy.harness import ADMIN_KEY, ZONE, Gateway, Simulator, bearer
from tests.telemetry.collector import Collector, plain

_SAMPLE = re.compile(r"(?m)^([a-z_]+)(?:{(.*)})? ([^ ]+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Row = Mapping[str, Any]


def rows(gateway: Gateway) -> list[Row]:
    """Every audit row, page by page."""
    found: list[Row] = []
    query: dict[str, Any] = {"limit": 1000}
    while True:
        answer = gateway.http.get("/v1/requests", params=query, headers=bearer(ADMIN_KEY)).json()
        found += answer["requests"]
        if not answer["next_cursor"]:
            return found
        query["cursor"] = answer["next_cursor"]


def tokens(row: Row) -> int:
    return row["input_tokens"] + row["output_tokens"]


class Metrics:
    """/metrics, read once."""

    def __init__(self, gateway: Gateway) -> None:
        text = gateway.http.get("/metrics").text
        self.samples = [
            (name, dict(_LABEL.findall(labels)), float(value)) for name, labels, value in _SAMPLE.findall(text)
        ]

    def sums(self, name: str, *labels: str) -> Counter[Any]:
        """The samples of a name, added up by some of its labels (by all there is, for one label: its value alone)."""
        found: Counter[Any] = Counter()
        for sample, has, value in self.samples:
            if sample == name and value:
                key = tuple(has[label] for label in labels)
                found[key[0] if len(labels) == 1 else key] += round(value * 1e9) if "usd" in name else round(value)
        return found

    def total(self, name: str) -> int:
        return sum(self.sums(name).values())


def ledger(gateway: Gateway, teams: Iterable[str]) -> dict[str, tuple[int, int, int]]:
    """Of each team this month: used tokens, used nano-USD, held tokens."""

    async def look() -> dict[str, tuple[int, int, int]]:
        client = connect(f"unix://{gateway.data_dir}/valkey.sock", timeout_s=5)
        now_ms = round(time.time() * 1000)
        found = {}
        for team in teams:
            month = (await RedisLedger(client).usage(team, now_ms, windows_at(now_ms, ZONE))).standing.monthly
            found[team] = (month.used_tokens, month.used_nano_usd, month.held_tokens)
        await client.aclose()
        return found

    return asyncio.run(look())


def provider_totals(simulators: Iterable[Simulator], name: str) -> Counter[str]:
    """A counter of the providers by the model they were asked for."""
    found: Counter[str] = Counter()
    for simulator in simulators:
        for models in simulator.stats()["formats"].values():
            for model, totals in models.items():
                found[model] += totals[name]
    return found


def still_open(simulators: Iterable[Simulator]) -> int:
    return sum(simulator.stats()["open"] for simulator in simulators)


def attributes(span: Span) -> dict[str, Any]:
    return {item.key: plain(item.value) for item in span.attributes}


def roots(collector: Collector) -> list[dict[str, Any]]:
    """The attributes of each request's outermost span."""
    return [attributes(span) for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]


def attempts_told(collector: Collector) -> int:
    return sum(span.kind == Span.SPAN_KIND_CLIENT for span in collector.spans)
