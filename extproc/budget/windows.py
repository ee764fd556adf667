"""The calendar day and month of a moment, in UTC or in a team's time zone.

In: milliseconds since the epoch and an IANA zone name. Out: `Windows`. Pure; the ledger is given the result, so that no
clock but the caller's matters. Called once per request by the plan and the settler.
"""

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec

_QUARTER_HOUR_MS = 15 * 60 * 1000


class Window(msgspec.Struct, frozen=True):
    """One calendar day (`2026-11-24`) or month (`2026-11`)."""

    id: str
    end_ms: int  # since the epoch; the first millisecond that is no longer in it


class Windows(msgspec.Struct, frozen=True):
    """The day and the month that a moment lies in."""

    daily: Window
    monthly: Window


def windows_at(now_ms: int, zone: str = "UTC") -> Windows:
    """The windows around `now_ms`. Raises zoneinfo.ZoneInfoNotFoundError for an unknown `zone`."""
    # Every zone's offset is a multiple of 15 minutes today, so that one answer holds for a quarter of an hour.
    return _windows(now_ms // _QUARTER_HOUR_MS, zone)


@lru_cache(maxsize=256)
def _windows(quarter_hour: int, zone: str) -> Windows:
    where: tzinfo = UTC if zone == "UTC" else ZoneInfo(zone)
    local = datetime.fromtimestamp(quarter_hour * _QUARTER_HOUR_MS / 1000, where)
    day = datetime(local.year, local.month, local.day, tzinfo=where)
    month = day.replace(day=1)
    return Windows(
        daily=Window(f"{day:%Y-%m-%d}", _epoch_ms(_date_after(day, 1))),
        monthly=Window(f"{month:%Y-%m}", _epoch_ms(_date_after(month, 31).replace(day=1))),
    )


def _date_after(midnight: datetime, days: int) -> datetime:
    """Midnight `days` dates later: wall time arithmetic, so that a day of 23 or 25 hours is one day."""
    return midnight + timedelta(days=days)


def _epoch_ms(moment: datetime) -> int:
    """Where midnight is skipped (clocks go forward at 00:00), PEP 495's fold=0 gives the instant of the change."""
    return round(moment.timestamp() * 1000)
