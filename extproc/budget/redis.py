"""The ledger on Valkey or Redis, one server or a cluster: one Lua script, one round trip, per call.

In: the structs of `ledger`. Out: their answers. Implements Holds, Settlements and Accounts. Each script is sent by its
hash (EVALSHA) and in full only when the server does not have it (NOSCRIPT: new, restarted or flushed). All keys of a
team lie in one slot. Time comes in with each call and no script asks the server for it, so that what a script does
follows from its arguments alone; only expiry, which merely tidies up, goes by the server's clock.

The server must not evict (`maxmemory-policy noeviction`): an evicted counter is spent money forgotten.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Any, cast

from extproc.budget.ledger import (
    MAX_AMOUNT,
    Account,
    Admitted,
    Caps,
    Crossing,
    HoldClosed,
    HoldState,
    LedgerUnavailable,
    LimitName,
    Minute,
    Refused,
    Reservation,
    Rider,
    Settled,
    Settlement,
    Standing,
    TeamUsage,
    TopUp,
    Unit,
    Unreconciled,
    WindowKind,
)
from extproc.budget.windows import Window, Windows
from extproc.state import AWAY, State, UnknownScript

EXPIRE_AT_MOST = 100

# Windows outlive their end, so that what was reserved in them can still be settled and looked at.
WINDOW_KEPT_MS = 7 * 86_400_000
# A settlement is repeated by a settler that did not get the answer: seconds later while it runs, or when its supervisor
# has it back after a crash. An hour is ample for that, and at 167 requests a second it is 600,000 markers of 240 bytes.
CLOSED_KEPT_MS = 3_600_000


class Script:
    """A Lua script, and the hash the server knows it by."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.sha = hashlib.sha1(text, usedforsecurity=False).hexdigest()

    @classmethod
    def of(cls, package: str, name: str) -> "Script":
        """A file of the package's folder `lua`, with its `common.lua` before it."""
        folder = resources.files(package) / "lua"
        return cls((folder / "common.lua").read_bytes() + (folder / f"{name}.lua").read_bytes())


RESERVE, _SETTLE, _RELEASE, _EXPIRE, _USAGE, _GRANT = (
    Script.of("extproc.budget", name) for name in ("reserve", "settle", "release", "expire", "usage", "grant")
)


class RedisLedger:
    """See the module. `client` is shared, not owned: close it where it was made."""

    def __init__(self, client: State, *, prefix: str = "gw", closed_kept_ms: int = CLOSED_KEPT_MS) -> None:
        self._client = client
        self._prefix = prefix
        self._closed_kept_ms = closed_kept_ms

    def rider(self, reservation: Reservation) -> Rider | None:
        """The hold, to be taken within another script; None in a cluster, where a script's keys share one slot.

        Raises ValueError for amounts out of range.
        """
        if not self._client.one_server:
            return None
        return Rider(self._key(reservation.team_id), _reserve_arguments(reservation))

    async def reserve(self, reservation: Reservation, rider: Rider | None = None) -> Admitted | Refused:
        """Take a hold, unless `rider` did. Raises HoldClosed, LedgerUnavailable, and ValueError for amounts out of
        range."""
        reply = rider.reply if rider else None
        if reply is None:
            words = rider.arguments if rider else _reserve_arguments(reservation)
            reply = await self._run(RESERVE, reservation.team_id, *words)
        answer, granted, limits, minute, daily, monthly = reply
        standing = Standing(_account(daily), _account(monthly), Minute(*minute))
        if answer == b"admitted":
            return Admitted(granted, standing)
        if answer == b"refused":
            return Refused(tuple(cast(LimitName, name.decode()) for name in limits), standing)
        raise HoldClosed(reservation.hold_id)

    async def release(self, team_id: str, hold_id: str) -> HoldState:
        """Give a hold back whole; tells what it was. Raises LedgerUnavailable."""
        was = await self._run(_RELEASE, team_id, hold_id, self._closed_kept_ms)
        return cast(HoldState, was.decode())

    async def settle(self, settlement: Settlement) -> Settled:
        """Charge what was used, once. Raises LedgerUnavailable, and ValueError for amounts out of range."""
        bills = settlement.bills
        was, crossings = await self._run(
            _SETTLE,
            settlement.team_id,
            self._closed_kept_ms,
            *_window_arguments(settlement.windows),
            *_cap_arguments(settlement.caps),
            len(bills),
            *(word for bill in bills for word in (bill.hold_id, _amount(bill.tokens), _optional(bill.nano_usd))),
            *(f"{pct:g}" for pct in settlement.thresholds_pct),
        )
        return Settled(
            tuple(cast(HoldState, state.decode()) for state in was), tuple(_crossing(row) for row in crossings)
        )

    async def expire(self, team_id: str, now_ms: int, acknowledged: Sequence[str] = ()) -> list[Unreconciled]:
        """Charge at most 100 holds whose lease has ended; call again until it returns none.

        What it returns comes again until it is acknowledged, so that no audit row is lost. Alert thresholds passed by
        these charges are found by the window's next settlement. Raises LedgerUnavailable.
        """
        rows = await self._run(_EXPIRE, team_id, now_ms, EXPIRE_AT_MOST, *acknowledged)
        return [_unreconciled(row) for row in rows]

    async def held(self, team_id: str, hold_ids: list[str]) -> set[str]:
        """Which of these holds of a team are open. Raises LedgerUnavailable."""
        key = f"{self._key(team_id)}:leases"
        try:
            scores = await self._client.execute_command("ZMSCORE", key, *hold_ids)
        except AWAY as error:
            raise LedgerUnavailable(f"{type(error).__name__}: {error}") from error
        return {hold_id for hold_id, score in zip(hold_ids, scores, strict=True) if score is not None}

    async def usage(self, team_id: str, now_ms: int, windows: Windows) -> TeamUsage:
        """A team's counters in `windows`. Raises LedgerUnavailable."""
        holds, minute, daily, monthly = await self._run(_USAGE, team_id, now_ms, windows.daily.id, windows.monthly.id)
        return TeamUsage(Standing(_account(daily), _account(monthly), Minute(*minute)), holds)

    async def standing(self, team_id: str, windows: Windows, now_ms: int) -> Standing:
        """How a team stands in `windows`. Raises LedgerUnavailable."""
        return (await self.usage(team_id, now_ms, windows)).standing

    async def top_up(self, grant: TopUp) -> bool:
        """Grant a top-up; False if this grant was made before. Raises LedgerUnavailable, ValueError."""
        window: Window = getattr(grant.windows, grant.window)
        made, _total = await self._run(
            _GRANT,
            grant.team_id,
            grant.grant_id,
            grant.window,
            window.id,
            window.end_ms + WINDOW_KEPT_MS,
            grant.unit,
            _amount(grant.amount),
        )
        return bool(made)

    def _key(self, team_id: str) -> str:
        return f"{self._prefix}:{{{team_id}}}"

    async def _run(self, script: Script, team_id: str, *arguments: str | int) -> Any:
        key = self._key(team_id)
        try:
            try:
                return await self._client.execute_command("EVALSHA", script.sha, 1, key, *arguments)
            except UnknownScript:
                return await self._client.execute_command("EVAL", script.text, 1, key, *arguments)
        except AWAY as error:
            raise LedgerUnavailable(f"{type(error).__name__}: {error}") from error


def _reserve_arguments(reservation: Reservation) -> tuple[str | int, ...]:
    priced = reservation.held_nano_usd(0) is not None
    _amount(reservation.input_tokens + reservation.output_tokens)
    _amount(reservation.output_tokens * (reservation.output_pico_usd_per_token or 0))
    _amount(reservation.held_nano_usd(reservation.output_tokens) or 0)
    return (
        reservation.hold_id,
        reservation.now_ms,
        reservation.now_ms + reservation.lease_ms,
        _amount(reservation.input_tokens),
        _amount(reservation.output_tokens),
        _amount(reservation.least_output_tokens),
        _optional(reservation.input_nano_usd) if priced else "",
        _optional(reservation.output_pico_usd_per_token) if priced else "",
        *_window_arguments(reservation.windows),
        *_cap_arguments(reservation.caps),
        _optional(reservation.caps.requests_per_minute),
        _optional(reservation.caps.tokens_per_minute),
    )


@lru_cache(maxsize=1024)
def _window_arguments(windows: Windows) -> tuple[str | int, ...]:
    return (
        windows.daily.id,
        windows.daily.end_ms + WINDOW_KEPT_MS,
        windows.monthly.id,
        windows.monthly.end_ms + WINDOW_KEPT_MS,
    )


@lru_cache(maxsize=1024)
def _cap_arguments(caps: Caps) -> tuple[str | int, ...]:
    limits = (caps.daily_tokens, caps.monthly_tokens, caps.daily_nano_usd, caps.monthly_nano_usd)
    return tuple("" if limit is None else limit for limit in limits)


def _amount(value: int) -> int:
    if not 0 <= value <= MAX_AMOUNT:
        raise ValueError(f"an amount must be from 0 to 2^53 - 1, not {value}")
    return value


def _optional(value: int | None) -> str | int:
    return "" if value is None else _amount(value)


def _account(counters: list[bytes | None]) -> Account:
    return Account(*(int(value or 0) for value in counters))


def _crossing(row: list[bytes]) -> Crossing:
    window, window_id, unit, threshold, used, limit = (value.decode() for value in row)
    return Crossing(cast(WindowKind, window), window_id, cast(Unit, unit), float(threshold), int(used), int(limit))


def _unreconciled(row: list[bytes]) -> Unreconciled:
    hold_id, tokens, nano_usd, output_tokens, at_ms, daily_id, monthly_id = (value.decode() for value in row)
    return Unreconciled(
        hold_id, int(tokens), int(nano_usd) if nano_usd else None, int(output_tokens), int(at_ms), daily_id, monthly_id
    )
