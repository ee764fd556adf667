"""`GET /v1/providers/health`: how each provider answered lately.

In: the attempts that the settler wrote down. Out: `{providers: […]}`. An attempt that was refused for its rate counts
as an error here (it served nobody) but alone takes no provider down. Latency is the time to the first byte of an
answer, which is all of it where the answer is not streamed.
"""

import sqlite3
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from extproc.logs import rfc3339

Health = Literal["healthy", "degraded", "down", "unknown"]

_MINUTE_S = 60.0
_LATELY_S = 300.0
_DEGRADED_FROM = 0.05
_FEWEST_FOR_DOWN = 3


class Attempts(msgspec.Struct, frozen=True):
    """How attempts within some time ended."""

    ok: int = 0
    error: int = 0
    rate_limited: int = 0

    @property
    def total(self) -> int:
        """All that say something of the provider."""
        return self.ok + self.error + self.rate_limited

    @property
    def error_rate(self) -> float | None:
        """Share that served nobody, 0 to 1; None without attempts."""
        return (self.error + self.rate_limited) / self.total if self.total else None


def health_of(minute: Attempts, lately: Attempts, down_from: float) -> Health:
    """What to call a provider, by its last minute, or its last five if it was not asked since."""
    attempts = minute if minute.total else lately
    rate = attempts.error_rate
    if rate is None:
        return "unknown"
    if attempts.error >= _FEWEST_FOR_DOWN and attempts.error / attempts.total >= down_from:
        return "down"
    return "degraded" if rate >= _DEGRADED_FROM else "healthy"


def select(connection: sqlite3.Connection, providers: Iterable[str], now_s: float, down_from: float) -> dict[str, Any]:
    """The answer's JSON object. `down_from`: the error rate at which the breaker opens. Raises sqlite3.Error."""
    return {"providers": [_provider(connection, name, now_s, down_from) for name in providers]}


def _provider(connection: sqlite3.Connection, name: str, now_s: float, down_from: float) -> dict[str, Any]:
    minute = _attempts(connection, name, now_s - _MINUTE_S)
    lately = _attempts(connection, name, now_s - _LATELY_S)
    return {
        "provider": name,
        "status": health_of(minute, lately, down_from),
        "error_rate_1m": minute.error_rate or 0.0,
        "error_rate_5m": lately.error_rate or 0.0,
        "p50_latency_ms": _latency_ms(connection, name, now_s - _LATELY_S, 0.50),
        "p99_latency_ms": _latency_ms(connection, name, now_s - _LATELY_S, 0.99),
        "circuit": "closed",
        "last_failure_at": _last(connection, name, ("error", "rate_limited")),
        "last_success_at": _last(connection, name, ("ok",)),
    }


def _attempts(connection: sqlite3.Connection, provider: str, since_s: float) -> Attempts:
    counts = {
        verdict: connection.execute(
            "SELECT count(*) FROM attempt WHERE provider = ? AND verdict = ? AND at >= ?", (provider, verdict, since_s)
        ).fetchone()[0]
        for verdict in ("ok", "error", "rate_limited")
    }
    return Attempts(**counts)


def _latency_ms(connection: sqlite3.Connection, provider: str, since_s: float, quantile: float) -> float | None:
    answered = "FROM attempt WHERE provider = ? AND verdict = 'ok' AND at >= ? AND first_byte_ms IS NOT NULL"
    (count,) = connection.execute(f"SELECT count(*) {answered}", (provider, since_s)).fetchone()
    if not count:
        return None
    (latency_ms,) = connection.execute(
        f"SELECT first_byte_ms {answered} ORDER BY first_byte_ms LIMIT 1 OFFSET ?",
        (provider, since_s, min(count - 1, int(quantile * count))),
    ).fetchone()
    return float(latency_ms)


def _last(connection: sqlite3.Connection, provider: str, verdicts: tuple[str, ...]) -> str | None:
    moments = [
        connection.execute(
            "SELECT max(at) FROM attempt WHERE provider = ? AND verdict = ?", (provider, verdict)
        ).fetchone()[0]
        for verdict in verdicts
    ]
    latest = max((at for at in moments if at is not None), default=None)
    return None if latest is None else rfc3339(latest)
