"""`GET /v1/usage/series`, `/v1/usage/routing`, `/v1/providers/series`: the same over time, for charts.

In: a window that ends now, perhaps a team. Out: JSON objects; a step without requests has no point. The last hour is
read from the rows, by the minute; longer windows from the sums, which are never finer than 15 minutes.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Connection, Select, case, func, literal_column, select, true

from control.sql import total, whole_s
from extproc.audit.tables import ATTEMPT, AUDIT, ROUTED, SUMS
from extproc.catalog import Catalog
from extproc.errors import InvalidRequest
from extproc.pricing import cost_nano_usd
from extproc.process.logs import rfc3339
from extproc.records import Usage

_MOST_ATTEMPTS: Final = 50_000  # the newest; beyond them the past is left out
_MINUTE_S: Final = 60


class Window(msgspec.Struct, frozen=True):
    """How far back, and in steps of how long."""

    name: str
    length_s: int
    step_s: int

    def since_s(self, now_s: float) -> int:
        """Where the window begins: at a step's beginning."""
        return int(now_s - self.length_s) // self.step_s * self.step_s + self.step_s


WINDOWS: Final = {
    window.name: window
    for window in (
        Window("1h", 3_600, _MINUTE_S),
        Window("24h", 86_400, 900),
        Window("7d", 7 * 86_400, 3_600),
        Window("30d", 30 * 86_400, 86_400),
    )
}


class Series(msgspec.Struct, frozen=True, kw_only=True):
    window: str
    step_s: int
    since: str
    until: str


class UsagePoint(msgspec.Struct, frozen=True, kw_only=True):
    at: str
    team_id: str
    model: str | None
    requests: int
    failed: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    latency_ms: float


class UsageSeries(Series, frozen=True, kw_only=True):
    """A step without requests has no point."""

    points: list[UsagePoint]


class Routed(msgspec.Struct, frozen=True, kw_only=True):
    auto: bool
    decision: str
    model: str | None
    requests: int
    cost_usd: float


class Auto(msgspec.Struct, frozen=True, kw_only=True):
    """Against sending all of its requests to the hard model; null where that has no price, or there is none."""

    requests: int
    cost_usd: float
    hard_model: str | None
    always_hard_usd: float | None
    saved_usd: float | None


class RoutingSeries(Series, frozen=True, kw_only=True):
    decisions: list[Routed]
    auto: Auto


class ProviderPoint(msgspec.Struct, frozen=True, kw_only=True):
    at: str
    provider: str
    attempts: int
    errors: int
    p50_latency_ms: float | None
    p99_latency_ms: float | None


class ProviderSeries(Series, frozen=True, kw_only=True):
    points: list[ProviderPoint]


_FIELDS: Final = ("requests", "failed", "input_tokens", "output_tokens", "cost_nano_usd", "latency_ms")


def window_of(given: Mapping[str, str]) -> Window:
    """The query parameter `window`. Raises InvalidRequest."""
    window = WINDOWS.get(given.get("window", "24h"))
    if window is None:
        raise InvalidRequest(f"window must be one of {', '.join(WINDOWS)}.", param="window")
    return window


def usage(connection: Connection, window: Window, team_id: str | None, now_s: float) -> UsageSeries:
    """What was used, by step, team and model. Raises SQLAlchemyError."""
    of = _usage_of_rows if window.step_s == _MINUTE_S else _usage_of_sums
    points = [
        UsagePoint(at=rfc3339(at), team_id=team, model=model, **_shown(dict(zip(_FIELDS, values, strict=True))))
        for at, team, model, *values in connection.execute(of(window, team_id, now_s))
    ]
    return UsageSeries(**_head(window, now_s), points=points)


def _usage_of_rows(window: Window, team_id: str | None, now_s: float) -> Select[Any]:
    row = AUDIT.c
    keys = (_step(whole_s(row.received_at), window), row.team_id, func.coalesce(row.model_used, row.model_routed))
    values = (
        func.count(),
        *map(total, (case((row.status == "failed", 1), else_=0), row.input_tokens, row.output_tokens)),
        total(row.cost_nano_usd),
        func.sum(row.latency_ms),
    )
    return _grouped(keys, values, row.received_at >= window.since_s(now_s), _of(row.team_id, team_id))


def _usage_of_sums(window: Window, team_id: str | None, now_s: float) -> Select[Any]:
    row = SUMS.c
    values = (
        *map(total, (row.requests, case((row.status == "failed", row.requests), else_=0))),
        *map(total, (row.input_tokens, row.output_tokens, row.cost_nano_usd)),
        func.sum(row.latency_ms),
    )
    keys = (_step(row.bucket_s, window), row.team_id, row.model)
    return _grouped(keys, values, row.bucket_s >= window.since_s(now_s), _of(row.team_id, team_id))


def _grouped(keys: Sequence[ColumnElement[Any]], values: Sequence[ColumnElement[Any]], *where: Any) -> Select[Any]:
    return select(*keys, *values).where(*where).group_by(*keys).order_by(*keys)


def _step(seconds: ColumnElement[int], window: Window) -> ColumnElement[int]:
    """The beginning of the step that `seconds` lies in."""
    # A constant, not a parameter: PostgreSQL would take the one in GROUP BY for another one.
    step: ColumnElement[int] = literal_column(str(window.step_s), BigInteger)
    return seconds // step * step


def _of(column: ColumnElement[str], team_id: str | None) -> ColumnElement[bool]:
    return true() if team_id is None else column == team_id


def _shown(sums: dict[str, Any]) -> dict[str, Any]:
    sums["cost_usd"] = sums.pop("cost_nano_usd") / 1e9
    sums["latency_ms"] = sums["latency_ms"] / sums["requests"]
    return sums


def routing(
    connection: Connection, window: Window, team_id: str | None, now_s: float, catalog: Catalog
) -> RoutingSeries:
    """How requests were routed, and what `auto` saved against sending all of its requests to the hard model.

    The saving is None where the hard model's price is not known, or there is none. Raises SQLAlchemyError.
    """
    row = ROUTED.c
    requests, *amounts = map(
        total, (row.requests, row.input_tokens, row.output_tokens, row.cached_tokens, row.cost_nano_usd)
    )
    wanted = (
        select(row.auto, row.decision, row.model, requests, *amounts)
        .where(row.bucket_s >= window.since_s(now_s), _of(row.team_id, team_id))
        .group_by(row.auto, row.decision, row.model)
        .order_by(requests.desc())
    )
    rows = connection.execute(wanted).all()
    auto = [row for row in rows if row[0]]
    cost = sum(row[7] for row in auto)
    hard = next(iter(catalog.routing.auto.get("hard", ())), None)
    always_hard = _cost_at(catalog, hard, auto) if hard else None
    return RoutingSeries(
        **_head(window, now_s),
        decisions=[
            Routed(auto=bool(row[0]), decision=row[1], model=row[2], requests=row[3], cost_usd=row[7] / 1e9)
            for row in rows
        ],
        auto=Auto(
            requests=sum(row[3] for row in auto),
            cost_usd=cost / 1e9,
            hard_model=hard,
            always_hard_usd=None if always_hard is None else always_hard / 1e9,
            saved_usd=None if always_hard is None else (always_hard - cost) / 1e9,
        ),
    )


def _cost_at(catalog: Catalog, model: str, rows: Sequence[Sequence[Any]]) -> int | None:
    """Nano-USD that the same tokens cost at `model`, long-context tiers aside: a sum is no long prompt."""
    price = msgspec.structs.replace(catalog.targets[model].price, long_context=())
    used = Usage(
        input_tokens=sum(row[4] for row in rows),
        output_tokens=sum(row[5] for row in rows),
        cached_tokens=sum(row[6] for row in rows),
    )
    return cost_nano_usd(used, price)


def providers(connection: Connection, window: Window, now_s: float) -> ProviderSeries:
    """How providers answered, by step. Raises SQLAlchemyError."""
    row = ATTEMPT.c
    wanted = (
        select(row.provider, _step(whole_s(row.at), window), row.verdict, row.first_byte_ms)
        .where(row.at >= window.since_s(now_s), row.verdict != "abandoned")
        .order_by(row.at.desc())
        .limit(_MOST_ATTEMPTS)
    )
    seen: dict[tuple[int, str], list[tuple[str, float | None]]] = defaultdict(list)
    for provider, at, verdict, first_byte_ms in connection.execute(wanted):
        seen[(at, provider)].append((verdict, first_byte_ms))
    points = [_answered(at, provider, seen[(at, provider)]) for at, provider in sorted(seen)]
    return ProviderSeries(**_head(window, now_s), points=points)


def _answered(at: int, provider: str, attempts: Sequence[tuple[str, float | None]]) -> ProviderPoint:
    latencies = sorted(ms for verdict, ms in attempts if verdict == "ok" and ms is not None)
    return ProviderPoint(
        at=rfc3339(at),
        provider=provider,
        attempts=len(attempts),
        errors=sum(verdict != "ok" for verdict, _ in attempts),
        p50_latency_ms=_quantile(latencies, 0.5),
        p99_latency_ms=_quantile(latencies, 0.99),
    )


def _quantile(values: Sequence[float], share: float) -> float | None:
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def _head(window: Window, now_s: float) -> dict[str, Any]:
    return {
        "window": window.name,
        "step_s": window.step_s,
        "since": rfc3339(window.since_s(now_s)),
        "until": rfc3339(now_s),
    }
