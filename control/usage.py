"""`GET /v1/teams/{id}/usage` and `GET /v1/usage`: what was used today and this month, and of which limit.

In: the settings, the moment, and what `used` reads from the journal's sums. Out: JSON objects. Tokens are input plus
output, as billed. Days and months are those of the team's own time zone.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from extproc.settings import Settings, Team

_TOP_MODELS = 10


class ModelUse(msgspec.Struct, frozen=True):
    """What was used of one model."""

    model: str
    requests: int
    tokens: int
    cost_usd: float


class Use(msgspec.Struct, frozen=True):
    """What a team used within some time."""

    tokens: int = 0
    nano_usd: int = 0
    held_tokens: int = 0  # reserved by requests in flight


def used(connection: sqlite3.Connection, team_id: str, since_s: float) -> Use:
    """What `team_id` used of requests received since `since_s` (a multiple of 15 minutes). Raises sqlite3.Error."""
    tokens, nano_usd = connection.execute(
        "SELECT total(input_tokens + output_tokens), total(cost_nano_usd) FROM sums"
        " WHERE bucket_s >= ? AND team_id = ?",
        (max(1, since_s), team_id),
    ).fetchone()
    return Use(int(tokens), int(nano_usd))


def used_models(connection: sqlite3.Connection, team_id: str, since_s: float) -> list[ModelUse]:
    """The same, by model; most tokens first."""
    rows = connection.execute(
        "SELECT model, sum(requests), sum(input_tokens + output_tokens) AS tokens, sum(cost_nano_usd) / 1e9 FROM sums"
        " WHERE bucket_s >= ? AND team_id = ? AND model != '' GROUP BY model ORDER BY tokens DESC, model",
        (max(1, since_s), team_id),
    )
    return [ModelUse(*row) for row in rows]


def team_usage(connection: sqlite3.Connection, team: Team, now_s: float) -> dict[str, Any]:
    """The answer for one team."""
    day_s, month_s = window_starts(now_s, team.budget.timezone)
    budget = team.budget
    day, month = used(connection, team.id, day_s), used(connection, team.id, month_s)
    models = used_models(connection, team.id, month_s)
    return {
        "team_id": team.id,
        "daily": _window(day, budget.daily_tokens, budget.daily_usd),
        "monthly": _window(month, budget.monthly_tokens, budget.monthly_usd),
        "top_models": models[:_TOP_MODELS],
        "auto_downgrade_active": False,
    }


def all_usage(connection: sqlite3.Connection, settings: Settings, now_s: float) -> dict[str, Any]:
    """The answer for all teams: each one's, and their sums. A limit of all is known if each team has one."""
    teams = [team_usage(connection, team, now_s) for team in settings.teams]
    models: dict[str, ModelUse] = {}
    for team in settings.teams:
        _, month_s = window_starts(now_s, team.budget.timezone)
        for use in used_models(connection, team.id, month_s):
            so_far = models.get(use.model, ModelUse(use.model, 0, 0, 0.0))
            models[use.model] = ModelUse(
                use.model, so_far.requests + use.requests, so_far.tokens + use.tokens, so_far.cost_usd + use.cost_usd
            )
    top = sorted(models.values(), key=lambda use: (-use.tokens, use.model))
    return {
        "daily": _sum(team["daily"] for team in teams),
        "monthly": _sum(team["monthly"] for team in teams),
        "top_models": top[:_TOP_MODELS],
        "auto_downgrade_active": any(team["auto_downgrade_active"] for team in teams),
        "teams": teams,
    }


def _window(use: Use, limit_tokens: int | None, limit_usd: float | None) -> dict[str, Any]:
    used_usd = use.nano_usd / 1e9
    shares = [_pct(use.tokens, limit_tokens), _pct(used_usd, limit_usd)]
    return {
        "used_tokens": use.tokens,
        "limit_tokens": limit_tokens,
        "held_tokens": use.held_tokens,
        "used_usd": used_usd,
        "limit_usd": limit_usd,
        # Of the limit that is nearer.
        "pct_used": max((share for share in shares if share is not None), default=None),
    }


def _sum(windows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    listed = list(windows)

    def total(name: str) -> Any:
        values = [window[name] for window in listed]
        return None if None in values else sum(values)

    limit_usd = total("limit_usd")
    use = Use(total("used_tokens"), round(total("used_usd") * 1e9), total("held_tokens"))
    return _window(use, total("limit_tokens"), limit_usd)


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
