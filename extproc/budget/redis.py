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

import msgspec

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
from extproc.state import AWAY, Argument, State, UnknownScript

MINUTE_MS = 60_000
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
    def of(cls, package: str, *names: str) -> "Script":
        """Files of the package's folder `lua`, one after the other, with its `common.lua` before them."""
        folder = resources.files(package) / "lua"
        return cls(b"".join((folder / f"{name}.lua").read_bytes() for name in ("common", *names)))


RESERVE, _USAGE, _GRANT = (Script.of("extproc.budget", name) for name in ("reserve", "usage", "grant"))
_SETTLE, _RELEASE, _EXPIRE = (Script.of("extproc.budget", "charging", name) for name in ("settle", "release", "expire"))


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
        return Rider(self._key(reservation.team_id), _reserve_argument(reservation))

    async def reserve(self, reservation: Reservation, rider: Rider | None = None) -> Admitted | Refused:
        """Take a hold, unless `rider` did. Raises HoldClosed, LedgerUnavailable, and ValueError for amounts out of
        range."""
        reply = rider.reply if rider else None
        if reply is None:
            words = rider.argument if rider else _reserve_argument(reservation)
            reply = await self._run(RESERVE, reservation.team_id, words)
        return _reserved(reservation, reply)

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
            *(limit or "" for limit in _cap_digits(settlement.caps)),
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
        return TeamUsage(Standing(_account(daily), _account(monthly), _minute(minute.split(b"|"), now_ms)), holds)

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

    async def _run(self, script: Script, team_id: str, *arguments: Argument) -> Any:
        key = self._key(team_id)
        try:
            try:
                return await self._client.execute_command("EVALSHA", script.sha, 1, key, *arguments)
            except UnknownScript:
                return await self._client.execute_command("EVAL", script.text, 1, key, *arguments)
        except AWAY as error:
            raise LedgerUnavailable(f"{type(error).__name__}: {error}") from error


_encode = msgspec.msgpack.Encoder().encode
_HEAD = 3  # bytes before the elements of an array of 16 or more


def _reserve_argument(reservation: Reservation) -> bytes:
    """What `reserve.lua` takes: the values one after the other, as the elements of an array are."""
    caps, priced = reservation.caps, reservation.held_nano_usd(0) is not None
    _amount(reservation.input_tokens + reservation.output_tokens)
    _amount(reservation.output_tokens * (reservation.output_pico_usd_per_token or 0))
    _amount(reservation.held_nano_usd(reservation.output_tokens) or 0)
    values = (
        reservation.hold_id,
        reservation.now_ms,
        str(reservation.now_ms + reservation.lease_ms),
        _amount(reservation.input_tokens),
        _amount(reservation.output_tokens),
        _amount(reservation.least_output_tokens),
        reservation.input_nano_usd if priced else None,
        reservation.output_pico_usd_per_token if priced else None,
        *_window_arguments(reservation.windows),
        *_cap_digits(caps),
        caps.requests_per_minute,
        caps.tokens_per_minute,
    )
    return _encode(values)[_HEAD:]


def _reserved(reservation: Reservation, reply: bytes) -> Admitted | Refused:
    """What `reserve.lua` said. Raises HoldClosed."""
    answer, granted, limits, *numbers = reply.split(b"|")
    output_tokens = int(granted)
    tokens = nano_usd = 0  # held now, and not yet in the counters
    if answer == b"admitted":
        tokens = reservation.input_tokens + output_tokens
        nano_usd = reservation.held_nano_usd(output_tokens) or 0
    standing = Standing(
        _account(numbers[5:12], tokens, nano_usd),
        _account(numbers[12:], tokens, nano_usd),
        _minute(numbers[:5], reservation.now_ms),
    )
    if answer == b"refused":
        return Refused(tuple(cast(LimitName, name) for name in limits.decode().split(",")), standing)
    if answer == b"closed":
        raise HoldClosed(reservation.hold_id)
    return Admitted(output_tokens, standing)


@lru_cache(maxsize=1024)
def _window_arguments(windows: Windows) -> tuple[str, ...]:
    return (
        windows.daily.id,
        str(windows.daily.end_ms + WINDOW_KEPT_MS),
        windows.monthly.id,
        str(windows.monthly.end_ms + WINDOW_KEPT_MS),
    )


@lru_cache(maxsize=1024)
def _cap_digits(caps: Caps) -> tuple[str | None, ...]:
    limits = (caps.daily_tokens, caps.monthly_tokens, caps.daily_nano_usd, caps.monthly_nano_usd)
    return tuple(None if limit is None else str(limit) for limit in limits)


def _amount(value: int) -> int:
    if not 0 <= value <= MAX_AMOUNT:
        raise ValueError(f"an amount must be from 0 to 2^53 - 1, not {value}")
    return value


def _optional(value: int | None) -> str | int:
    return "" if value is None else _amount(value)


def _account(counters: list[bytes], more_tokens: int = 0, more_nano_usd: int = 0) -> Account:
    """`more_*`: held besides what the counters say."""
    used, held, topup, used_usd, held_usd, topup_usd, unpriced = map(int, counters)
    return Account(used, held + more_tokens, topup, used_usd, held_usd + more_nano_usd, topup_usd, unpriced)


def _minute(said: list[bytes], now_ms: int) -> Minute:
    """`said`: requests, tokens, when the last request came; in a refusal also how long to wait for either."""
    requests, tokens, newest_ms, *waits = map(int, said)
    return Minute(requests, tokens, newest_ms + MINUTE_MS - now_ms if requests else 0, *waits)


def _crossing(row: list[bytes]) -> Crossing:
    window, window_id, unit, threshold, used, limit = (value.decode() for value in row)
    return Crossing(cast(WindowKind, window), window_id, cast(Unit, unit), float(threshold), int(used), int(limit))


def _unreconciled(row: list[bytes]) -> Unreconciled:
    hold_id, tokens, nano_usd, output_tokens, at_ms = (value.decode() for value in row)
    return Unreconciled(hold_id, int(tokens), int(nano_usd) if nano_usd else None, int(output_tokens), int(at_ms))
