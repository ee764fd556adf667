"""What the journal knows, as metric families: how much was used, how long it took, what could not be settled.

In: the journal's sums and histograms since it began, and its counters: a few rows, however many requests there were.
Out: families, rendered by `prometheus` and sent by `otlp`.
Source: opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import msgspec
from sqlalchemy import Connection

from control.families import Distribution, Family, Sample
from extproc.settings import Model
from extproc.settle import histograms
from extproc.settle.sums import CREDENTIAL_REFUSED, EVER, SUMMED

# Of the journal's counters, which are ours to show.
_COUNTERS = {
    "unauthenticated_requests": "Requests refused for want of a valid key or token.",
    "refused_addresses": "Requests refused as listen.allowed_ips does not have the client's address.",
    "unread_answers": "Unexpected answers that no worker was there to read: a 502 answer_unread to the client.",
    "crowded_answers": "Answers that a worker looked at although they could have passed by Envoy alone: too many did.",
    "unreadable_entries": "Access log entries that could not be settled.",
    "dropped_traces": "Requests whose trace was never sent, as the collector was away for too long.",
    "refused_audit_rows": "Rows that the audit database cannot hold; each is named in the log.",
    "unwritable_rows": "Rows that the journal will never take; each is in the log, whole.",
    "dropped_rows": "Rows lost because the journal could not be written for too long.",
}
_SUMS = {
    "requests": ("gateway.requests", "", "Requests by how they ended."),
    "cost_nano_usd": ("gateway.cost", "USD", "Cost of what was used, as far as prices are known."),
    "unpriced": ("gateway.unpriced_requests", "", "Requests that used something whose price is not known."),
    "cached_tokens": ("gateway.cached_input_tokens", "", "Input tokens read from a provider's cache."),
    "reasoning_tokens": ("gateway.reasoning_tokens", "", "Output tokens spent on reasoning."),
}
_NANO = 1e9


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
        return labels(self.team_id, self.model, self.provider) | {"status": self.status}


def families(connection: Connection, models: Sequence[Model]) -> list[Family]:
    """All of them; `models`: those that are configured. Raises SQLAlchemyError."""
    return [*_histograms(connection), *_sums(connection), _attempts(connection, models), *_counters(connection)]


def _histograms(connection: Connection) -> Iterator[Family]:
    for known in histograms.ALL:
        yield Family(
            name=known.name,
            unit=known.unit,
            kind="histogram",
            text=known.text,
            bounds=known.bounds,
            distributions=_distributions(connection, known),
        )


def _distributions(connection: Connection, known: histograms.Histogram) -> list[Distribution]:
    counts: dict[tuple[str, str, str, str], list[int]] = {}
    totals: dict[tuple[str, str, str, str], float] = defaultdict(float)
    for team, model, provider, detail, bucket, count, total in connection.exec_driver_sql(
        "SELECT team_id, model, provider, detail, bucket, count, total FROM histogram WHERE metric = ?"
        " ORDER BY team_id, model, provider, detail",
        (known.name,),
    ):
        key = (team, model, provider, detail)
        counts.setdefault(key, [0] * (len(known.bounds) + 1))[bucket] = count
        totals[key] += total
    return [
        Distribution(labels(*key[:3]) | {known.detail: key[3]}, found, totals[key]) for key, found in counts.items()
    ]


def _sums(connection: Connection) -> Iterator[Family]:
    rows = connection.exec_driver_sql(
        f"SELECT team_id, model, provider, status, {', '.join(SUMMED)} FROM sums WHERE bucket_s = ?"  # noqa: S608
        " ORDER BY team_id, model, provider, status",
        (EVER,),
    )
    sums: Sequence[Sums] = [Sums(*row) for row in rows]
    for field, (name, unit, text) in _SUMS.items():
        scale = _NANO if field == "cost_nano_usd" else 1
        samples = [
            Sample(
                labels(each.team_id, each.model, each.provider) | {"status": each.status}, getattr(each, field) / scale
            )
            for each in sums
        ]
        yield Family(name=name, unit=unit, kind="counter", text=text, samples=samples)


def _attempts(connection: Connection, models: Sequence[Model]) -> Family:
    """Refused credentials begin at 0: the first one opens a circuit, and so may be the only one that is seen."""
    found = {(model.provider, model.name, CREDENTIAL_REFUSED): 0 for model in models}
    rows = connection.exec_driver_sql(
        "SELECT provider, model, result, attempts FROM attempted ORDER BY provider, model, result"
    )
    found |= {(provider, model, result): attempts for provider, model, result, attempts in rows}
    return Family(
        name="gateway.provider.attempts",
        kind="counter",
        text="Attempts at providers by what came of them: ok, error, rate_limited, credential_refused, abandoned.",
        samples=[
            Sample({"provider": provider, "model": model, "result": result}, attempts)
            for (provider, model, result), attempts in found.items()
        ],
    )


def began_s(connection: Connection) -> float:
    """When the journal began to count, in seconds since the epoch. Raises SQLAlchemyError."""
    (at,) = connection.exec_driver_sql("SELECT value FROM mark WHERE name = 'began_at_s'").one()
    return float(at)


def counter(connection: Connection, name: str) -> int:
    """One of the journal's counters. Raises SQLAlchemyError."""
    found = connection.exec_driver_sql("SELECT value FROM counter WHERE name = ?", (name,)).fetchone()
    return int(found[0]) if found else 0


def _counters(connection: Connection) -> Iterator[Family]:
    found = {row.name: row.value for row in connection.exec_driver_sql("SELECT name, value FROM counter")}
    for name, text in _COUNTERS.items():
        yield Family(name=f"gateway.{name}", kind="counter", text=text, samples=[Sample({}, found.get(name, 0))])


def labels(team_id: str, model: str, provider: str) -> dict[str, str]:
    """Of every sample that is about requests: as many as there are configured teams, models and providers."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider,
        "gen_ai.response.model": model,
        "team": team_id,
    }
