"""Reservations and settlements with everything defaulted that a test does not care about."""

from typing import Any

from extproc.budget.ledger import Bill, Caps, Reservation, Settlement
from extproc.budget.windows import windows_at

NOON_MS = 1_929_960_000_000  # 2031-02-27T12:00:00Z: in the future of any server's clock, so that no key has expired
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def reservation(team: str, hold: str, **changes: Any) -> Reservation:
    now_ms = changes.pop("now_ms", NOON_MS)
    caps = Caps(**{name: changes.pop(name) for name in list(changes) if name in Caps.__struct_fields__})
    values: dict[str, Any] = {
        "input_tokens": 10,
        "output_tokens": 90,
        "lease_ms": 60_000,
        "windows": windows_at(now_ms),
    }
    return Reservation(team_id=team, hold_id=hold, now_ms=now_ms, caps=caps, **(values | changes))


def settlement(team: str, hold: str, tokens: int, nano_usd: int | None = 0, **changes: Any) -> Settlement:
    now_ms = changes.pop("now_ms", NOON_MS)
    values: dict[str, Any] = {"windows": windows_at(now_ms)}
    return Settlement(team_id=team, bills=(Bill(hold, tokens, nano_usd),), **(values | changes))
