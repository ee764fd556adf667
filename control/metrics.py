"""`GET /metrics`: Prometheus text, under OpenTelemetry's names where it has one.

In: the journal's sums since it began, and its counters: a few rows, however many requests there were. Out: text in
the exposition format 0.0.4. The histograms of OpenTelemetry's GenAI conventions appear as summaries (`_sum`, `_count`).
Source: opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics, prometheus.io/docs/instrumenting/exposition_formats.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from extproc.settle.journal import EVER, SUMMED

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Of the journal's counters, which are ours to show.
_COUNTERS = {
    "unauthenticated_requests": "Requests refused for want of a valid key.",
    "unreadable_entries": "Access log entries that could not be settled.",
    "dropped_rows": "Rows lost because the journal could not be written for too long.",
}


class Sums(msgspec.Struct, frozen=True):
    """Everything of one team, model, provider and status since the journal began."""

    team_id: str
    model: str
    provider: str
    status: str
    requests: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost_nano_usd: int
    unpriced: int
    latency_ms: float

    @property
    def labels(self) -> dict[str, str]:
        """As each of its samples has them."""
        return {
            "gen_ai_operation_name": "chat",
            "gen_ai_provider_name": self.provider,
            "gen_ai_response_model": self.model,
            "team": self.team_id,
            "status": self.status,
        }


def render(connection: sqlite3.Connection) -> str:
    """The whole text. Raises sqlite3.Error."""
    rows = connection.execute(
        f"SELECT team_id, model, provider, status, {', '.join(SUMMED)} FROM sums WHERE bucket_s = ?"  # noqa: S608
        " ORDER BY team_id, model, provider, status",
        (EVER,),
    )
    sums = [Sums(*row) for row in rows]
    counters = dict(connection.execute("SELECT name, value FROM counter").fetchall())
    return "".join(f"{line}\n" for line in _lines(sums, counters))


def _lines(sums: list[Sums], counters: Mapping[str, int]) -> Iterator[str]:
    yield from _family("gen_ai_client_token_usage", "summary", "Tokens of a request, as billed.", _tokens(sums))
    yield from _family(
        "gen_ai_server_request_duration_seconds",
        "summary",
        "Time from a request's arrival to the end of its answer.",
        (
            sample
            for each in sums
            for sample in (("_sum", each.labels, each.latency_ms / 1000), ("_count", each.labels, each.requests))
        ),
    )
    yield from _family("gateway_requests", "counter", "Requests by how they ended.", _totals(sums, "requests"))
    yield from _family(
        "gateway_cost_usd",
        "counter",
        "Cost of what was used, as far as prices are known.",
        (("_total", each.labels, each.cost_nano_usd / 1e9) for each in sums),
    )
    yield from _family(
        "gateway_unpriced_requests",
        "counter",
        "Requests that used something whose price is not known.",
        _totals(sums, "unpriced"),
    )
    yield from _family(
        "gateway_cached_input_tokens",
        "counter",
        "Input tokens read from a provider's cache.",
        _totals(sums, "cached_tokens"),
    )
    yield from _family(
        "gateway_reasoning_tokens", "counter", "Output tokens spent on reasoning.", _totals(sums, "reasoning_tokens")
    )
    for name, text in _COUNTERS.items():
        yield from _family(f"gateway_{name}", "counter", text, [("_total", {}, counters.get(name, 0))])


Sample = tuple[str, Mapping[str, str], float]


def _tokens(sums: Iterable[Sums]) -> Iterator[Sample]:
    for each in sums:
        for kind, tokens in (("input", each.input_tokens), ("output", each.output_tokens)):
            labels = each.labels | {"gen_ai_token_type": kind}
            yield "_sum", labels, tokens
            yield "_count", labels, each.requests


def _totals(sums: Iterable[Sums], field: str) -> Iterator[Sample]:
    return (("_total", each.labels, getattr(each, field)) for each in sums)


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    """In this format a counter's family is named with its suffix; a summary's is not."""
    family = f"{name}_total" if kind == "counter" else name
    yield f"# HELP {family} {text}"
    yield f"# TYPE {family} {kind}"
    for suffix, labels, value in samples:
        yield f"{name}{suffix}{_labels(labels)} {value!r}"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
