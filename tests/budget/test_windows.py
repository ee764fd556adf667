"""Calendar windows: every moment lies in exactly one day and month, in every zone."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.budget.windows import Window, windows_at

# Half-hour and 45-minute offsets, a half-hour change, changes at midnight, the date line.
ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe",
    "America/Havana", "Asia/Beirut", "Africa/Cairo", "America/Asuncion", "Pacific/Apia", "Pacific/Chatham",
]  # fmt: skip
FROM_MS, TO_MS = 1_750_000_000_000, 2_000_000_000_000


def ms(*date: int, zone: str = "UTC") -> int:
    return round(datetime(*date, tzinfo=ZoneInfo(zone)).timestamp() * 1000)


@given(st.integers(FROM_MS, TO_MS), st.sampled_from(ZONES))
def test_the_ids_are_the_local_date_and_the_end_is_ahead(now_ms: int, zone: str) -> None:
    windows = windows_at(now_ms, zone)
    local = datetime.fromtimestamp(now_ms / 1000, ZoneInfo(zone))
    assert (windows.daily.id, windows.monthly.id) == (f"{local:%Y-%m-%d}", f"{local:%Y-%m}")
    assert now_ms < windows.daily.end_ms <= windows.monthly.end_ms


@given(st.integers(FROM_MS, TO_MS), st.sampled_from(ZONES), st.sampled_from(["daily", "monthly"]))
def test_the_end_is_the_first_moment_of_the_next_window(now_ms: int, zone: str, kind: str) -> None:
    window: Window = getattr(windows_at(now_ms, zone), kind)
    assert getattr(windows_at(window.end_ms - 1, zone), kind) == window
    assert getattr(windows_at(window.end_ms, zone), kind).id > window.id


@pytest.mark.parametrize(
    ("now", "zone", "day", "hours"),
    [
        ((2026, 3, 29, 12), "Europe/Berlin", "2026-03-29", 23),
        ((2026, 10, 25, 12), "Europe/Berlin", "2026-10-25", 25),
        ((2026, 4, 24, 12), "Africa/Cairo", "2026-04-24", 23),  # midnight itself is skipped
        ((2026, 11, 24, 12), "UTC", "2026-11-24", 24),
    ],
)
def test_a_day_is_as_long_as_the_zone_says(now: tuple[int, ...], zone: str, day: str, hours: int) -> None:
    window = windows_at(ms(*now, zone=zone), zone).daily
    previous_end = windows_at(ms(*now, zone=zone) - 24 * 3_600_000, zone).daily.end_ms
    assert (window.id, (window.end_ms - previous_end) / 3_600_000) == (day, hours)


def test_utc_needs_no_zone_database() -> None:
    windows = windows_at(ms(2026, 12, 31, 23, 59), "UTC")
    assert windows.daily.end_ms == windows.monthly.end_ms == round(datetime(2027, 1, 1, tzinfo=UTC).timestamp() * 1000)


def test_an_unknown_zone_is_an_error() -> None:
    with pytest.raises(ZoneInfoNotFoundError):
        windows_at(FROM_MS, "Mars/Olympus_Mons")
