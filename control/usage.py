"""`GET /v1/teams/{id}/usage` and `GET /v1/usage`: what was used and is held today and this month, and of which limit.

In: the teams as they are now; the ledger's counters; from the audit store's sums the models. Out: JSON objects. Tokens
are input plus output, as billed. Days and months are those of the team's own time zone. Where the ledger is away, the
sums stand in (`source: audit`): nothing held, no top-ups; and this gateway's own rows alone, unless the audit store is
a database of all replicas.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import ColumnElement, Connection, select

from control.sql import total
from extproc.audit.tables import SUMS
from extproc.budget.ledger import Account, Minute, Standing
from extproc.budget.plan import nano_usd, used_pct
from extproc.budget.windows import Window as Period
from extproc.budget.windows import windows_at
from extproc.process.logs import rfc3339
from extproc.settings import Team

_TOP_MODELS = 10
_TOKENS = total(SUMS.c.input_tokens + SUMS.c.output_tokens)
_COST = total(SUMS.c.cost_nano_usd)


class ModelUse(msgspec.Struct, frozen=True):
    """What was used of one model."""

    model: str
    requests: int
    tokens: int
    cost_usd: float


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A day or a month. Limits are those in force, top-ups included; null is no limit."""

    used_tokens: int
    limit_tokens: int | None
    held_tokens: int
    topup_tokens: int
    used_usd: float
    limit_usd: float | None
    held_usd: float
    topup_usd: float
    unpriced_tokens: int
    pct_used: float | None


class TeamWindow(Window, frozen=True, kw_only=True):
    resets_at: str


class TeamUsage(msgspec.Struct, frozen=True, kw_only=True):
    """`source` audit: the ledger is away, these are this gateway's own rows."""

    team_id: str
    daily: TeamWindow
    monthly: TeamWindow
    top_models: list[ModelUse]
    alert_thresholds_pct: list[float]
    auto_downgrade_active: bool
    source: Literal["ledger", "audit"]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    daily: Window
    monthly: Window
    top_models: list[ModelUse]
    auto_downgrade_active: bool
    source: Literal["ledger", "audit"]
    teams: list[TeamUsage]


def used(connection: Connection, team_id: str, since_s: float) -> Account:
    """What `team_id` used of requests received since `since_s` (a multiple of 15 minutes). Raises SQLAlchemyError."""
    wanted = select(_TOKENS, _COST).where(*_since(team_id, since_s))
    tokens, cost = connection.execute(wanted).one()
    return Account(used_tokens=tokens, used_nano_usd=cost)


def used_models(connection: Connection, team_id: str, since_s: float) -> list[ModelUse]:
    """The same, by model; most tokens first."""
    wanted = (
        select(SUMS.c.model, total(SUMS.c.requests), _TOKENS, _COST)
        .where(*_since(team_id, since_s), SUMS.c.model != "")
        .group_by(SUMS.c.model)
        .order_by(_TOKENS.desc(), SUMS.c.model)
    )
    return [
        ModelUse(model, requests, tokens, cost / 1e9) for model, requests, tokens, cost in connection.execute(wanted)
    ]


def _since(team_id: str, since_s: float) -> tuple[ColumnElement[bool], ...]:
    return SUMS.c.bucket_s >= max(1, int(since_s)), SUMS.c.team_id == team_id


def audited(connection: Connection, team: Team, now_s: float) -> Standing:
    """How the team stands by the audit store's sums alone."""
    day_s, month_s = window_starts(now_s, team.budget.timezone)
    return Standing(used(connection, team.id, day_s), used(connection, team.id, month_s), Minute())


def team_usage(connection: Connection, team: Team, standing: Standing | None, now_s: float) -> TeamUsage:
    """The answer for one team. `standing`: the ledger's, None when it is away."""
    budget = team.budget
    windows = windows_at(round(now_s * 1000), budget.timezone)
    known = standing or audited(connection, team, now_s)
    _, month_s = window_starts(now_s, budget.timezone)
    return TeamUsage(
        team_id=team.id,
        daily=_window(known.daily, budget.daily_tokens, budget.daily_usd, windows.daily),
        monthly=_window(known.monthly, budget.monthly_tokens, budget.monthly_usd, windows.monthly),
        top_models=used_models(connection, team.id, month_s)[:_TOP_MODELS],
        alert_thresholds_pct=list(team.alert.thresholds_pct),
        auto_downgrade_active=team.auto_downgrade and used_pct(team, known) >= team.alert.thresholds_pct[0],
        source="audit" if standing is None else "ledger",
    )


def all_usage(connection: Connection, teams: Sequence[Team], standings: Mapping[str, Standing], now_s: float) -> Usage:
    """The answer for all teams: each one's, and their sums. A limit of all is known if each team has one."""
    each = [team_usage(connection, team, standings.get(team.id), now_s) for team in teams]
    models: dict[str, ModelUse] = {}
    for team in teams:
        _, month_s = window_starts(now_s, team.budget.timezone)
        for use in used_models(connection, team.id, month_s):
            so_far = models.get(use.model, ModelUse(use.model, 0, 0, 0.0))
            models[use.model] = ModelUse(
                use.model, so_far.requests + use.requests, so_far.tokens + use.tokens, so_far.cost_usd + use.cost_usd
            )
    top = sorted(models.values(), key=lambda use: (-use.tokens, use.model))
    return Usage(
        daily=_sum(team.daily for team in each),
        monthly=_sum(team.monthly for team in each),
        top_models=top[:_TOP_MODELS],
        auto_downgrade_active=any(team.auto_downgrade_active for team in each),
        source="ledger" if all(team.source == "ledger" for team in each) else "audit",
        teams=each,
    )


def _window(account: Account, limit_tokens: int | None, limit_usd: float | None, period: Period) -> TeamWindow:
    """One window. Limits are those in force, top-ups included."""
    tokens = None if limit_tokens is None else limit_tokens + account.topup_tokens
    limit_nano = nano_usd(limit_usd)
    usd = None if limit_nano is None else (limit_nano + account.topup_nano_usd) / 1e9
    amounts = {
        "used_tokens": account.used_tokens,
        "limit_tokens": tokens,
        "held_tokens": account.held_tokens,
        "topup_tokens": account.topup_tokens,
        "used_usd": account.used_nano_usd / 1e9,
        "limit_usd": usd,
        "held_usd": account.held_nano_usd / 1e9,
        "topup_usd": account.topup_nano_usd / 1e9,
        "unpriced_tokens": account.unpriced_tokens,
    }
    return TeamWindow(**_with_share(amounts), resets_at=rfc3339(period.end_ms / 1000))


def _with_share(amounts: dict[str, Any]) -> dict[str, Any]:
    shares = [_pct(amounts[f"used_{unit}"], amounts[f"limit_{unit}"]) for unit in ("tokens", "usd")]
    # Of the limit that is nearer.
    return amounts | {"pct_used": max((share for share in shares if share is not None), default=None)}


def _sum(windows: Iterable[Window]) -> Window:
    listed = list(windows)

    def total(name: str) -> Any:
        values = [getattr(window, name) for window in listed]
        return None if None in values else sum(values)

    return Window(**_with_share({name: total(name) for name in Window.__struct_fields__ if name != "pct_used"}))


def _pct(part: float, limit: float | None) -> float | None:
    if limit is None:
        return None
    return min(100.0, 100 * part / limit) if limit > 0 else 100.0


def window_starts(now_s: float, zone: str) -> tuple[float, float]:
    """When the day and the month that `now_s` lies in began, in seconds since the epoch."""
    where: tzinfo = UTC if zone == "UTC" else ZoneInfo(zone)
    local = datetime.fromtimestamp(now_s, where)
    day = datetime(local.year, local.month, local.day, tzinfo=where)
    return day.timestamp(), day.replace(day=1).timestamp()
