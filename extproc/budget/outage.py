"""What holds while the ledger cannot be reached.

In: the reservations the ledger did not take. Out: an answer like the ledger's, marked `local`, or LimitsUnavailable.
The walk uses `GuardedHolds` in place of the ledger and does not notice.

`fail_closed` refuses all. `fail_open` admits from this worker's share of what the team had left when the ledger was
last heard of: left / shares, where shares is workers x replicas, so that all workers together stay below what was left
(but for what they used since they last heard). For the minute it is the limit / shares, by whole minutes of the
caller's clock. What was admitted here stays counted for the rest of its window, also after the ledger is back: a second
outage brings no second share. Nothing is lost meanwhile: settling charges a hold the ledger never saw, and once it is
back it is told of those that are not settled: their lease's end is all there is of a request whose Envoy was killed.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Literal

import msgspec

from extproc.budget.ledger import (
    Account,
    Admitted,
    Caps,
    HoldClosed,
    Holds,
    HoldState,
    LedgerUnavailable,
    Minute,
    Refused,
    Reservation,
    Rider,
    Standing,
)
from extproc.budget.plan import MINUTE_MS, fit
from extproc.budget.windows import Windows
from extproc.errors import LimitsUnavailable
from extproc.process.beat import beat
from extproc.process.logs import Trouble

log = logging.getLogger(__name__)

RETRY_AFTER_MS = 1_000  # the ledger is asked again so long after it failed
MOST_UNTOLD = 20_000  # holds; about 20 MB
FRESH_MS = 1_000  # so long what the ledger told of a team is told on, before it is asked again


class _Team(msgspec.Struct):
    """What this worker knows and has taken for one team."""

    windows: Windows
    seen: Standing  # as the ledger last told
    seen_at_ms: int = 0
    daily: Account = Account()  # taken here, in held_*
    monthly: Account = Account()
    minute_id: int = 0
    minute: Minute = Minute()


class OutagePolicy:
    """`shares`: how many workers, over all replicas, may be admitting at the same time."""

    def __init__(self, mode: Literal["fail_open", "fail_closed"], shares: int) -> None:
        self._mode = mode
        self._shares = max(1, shares)
        self._teams: dict[str, _Team] = {}

    def observe(self, team_id: str, windows: Windows, standing: Standing, now_ms: int) -> None:
        """Remember how the team stands, as the ledger told."""
        team = self._team(team_id, windows, now_ms)
        team.seen, team.seen_at_ms = standing, now_ms

    def last(self, team_id: str, windows: Windows, now_ms: int) -> tuple[Standing, int] | None:
        """How the team stood when the ledger last told, with what was taken here, and when; None if it never did."""
        team = self._team(team_id, windows, now_ms)
        return (_standing(team), team.seen_at_ms) if team.seen_at_ms else None

    def reserve(self, reservation: Reservation) -> Admitted | Refused:
        """Admit locally, or refuse. Raises LimitsUnavailable (503) when the policy is fail_closed."""
        if self._mode == "fail_closed":
            raise LimitsUnavailable("Limits cannot be checked at the moment.", retry_after_s=RETRY_AFTER_MS / 1000)
        team = self._team(reservation.team_id, reservation.windows, reservation.now_ms)
        share = msgspec.structs.replace(reservation, caps=_share(reservation.caps, team.seen, self._shares))
        granted, short = fit(share, _standing(team))
        if short:
            return Refused(short, _standing(team), local=True)
        _take(team, reservation, granted)
        return Admitted(granted, _standing(team), local=True)

    def _team(self, team_id: str, windows: Windows, now_ms: int) -> _Team:
        """The team's record, moved on to `windows`."""
        team = self._teams.get(team_id)
        if team is None:
            team = self._teams[team_id] = _Team(windows, Standing(Account(), Account(), Minute()))
        elif team.windows.daily.end_ms < windows.daily.end_ms:
            same_month = team.windows.monthly == windows.monthly
            monthly_seen = team.seen.monthly if same_month else Account()
            team.windows, team.seen, team.daily = windows, Standing(Account(), monthly_seen, Minute()), Account()
            team.monthly = team.monthly if same_month else Account()
        minute_id = now_ms // MINUTE_MS
        if team.minute_id != minute_id:
            team.minute_id, team.minute = minute_id, Minute()
        return team


class GuardedHolds:
    """The ledger, with the outage policy behind it."""

    def __init__(self, holds: Holds, policy: OutagePolicy) -> None:
        self._holds = holds
        self._policy = policy
        self._away_until_ms = 0
        self._away = Trouble(log, "ledger unavailable; the outage policy decides", "ledger answers again")
        self._untold: dict[str, Reservation] = {}  # what was admitted here, by its id
        self._telling: asyncio.Task[None] | None = None

    def rider(self, reservation: Reservation) -> Rider | None:
        """As the ledger; None while it is left alone."""
        return None if reservation.now_ms < self._away_until_ms else self._holds.rider(reservation)

    async def reserve(self, reservation: Reservation, rider: Rider | None = None) -> Admitted | Refused:
        """As the ledger, else as the policy. Raises HoldClosed, LimitsUnavailable."""
        if reservation.now_ms < self._away_until_ms:
            return self._without(reservation)
        try:
            answer = await self._holds.reserve(reservation, rider)
        except LedgerUnavailable as error:
            self._away.seen(error)
            self._away_until_ms = reservation.now_ms + RETRY_AFTER_MS
            return self._without(reservation)
        self._away.over()
        self._policy.observe(reservation.team_id, reservation.windows, answer.standing, reservation.now_ms)
        return answer

    def _without(self, reservation: Reservation) -> Admitted | Refused:
        answer = self._policy.reserve(reservation)
        if isinstance(answer, Admitted) and len(self._untold) < MOST_UNTOLD:
            hold = msgspec.structs.replace(reservation, caps=Caps(), output_tokens=answer.output_tokens)
            self._untold[reservation.hold_id] = hold
            if self._telling is None or self._telling.done():
                self._telling = asyncio.create_task(self._tell())
        return answer

    async def _tell(self) -> None:
        """Have the ledger hold what was admitted here, as soon as it can. What was settled by then is closed there."""
        while self._untold:
            await beat(RETRY_AFTER_MS / 1000)
            with suppress(LedgerUnavailable):
                for hold_id, hold in list(self._untold.items()):
                    with suppress(HoldClosed):
                        await self._holds.reserve(hold)
                    self._untold.pop(hold_id)

    async def standing(self, team_id: str, windows: Windows, now_ms: int) -> Standing | None:
        """As the ledger told at most a second ago; while it is away, as it last told; None if it never did."""
        last = self._policy.last(team_id, windows, now_ms)
        known = last[0] if last else None
        if (last and now_ms - last[1] < FRESH_MS) or now_ms < self._away_until_ms:
            return known
        try:
            told = await self._holds.standing(team_id, windows, now_ms)
        except LedgerUnavailable:
            return known
        if told is not None:
            self._policy.observe(team_id, windows, told, now_ms)
        return told

    async def release(self, team_id: str, hold_id: str) -> HoldState:
        """As the ledger. Raises LedgerUnavailable: settle the hold with 0 later, which comes to the same."""
        return await self._holds.release(team_id, hold_id)


def _share(caps: Caps, seen: Standing, shares: int) -> Caps:
    """`caps`, so that what is left above `seen` is one share. Top-ups stay in `seen`, so they are shared as well."""
    day, month = seen.daily, seen.monthly
    return Caps(
        daily_tokens=_part(caps.daily_tokens, day.used_tokens + day.held_tokens, day.topup_tokens, shares),
        monthly_tokens=_part(caps.monthly_tokens, month.used_tokens + month.held_tokens, month.topup_tokens, shares),
        daily_nano_usd=_part(caps.daily_nano_usd, day.used_nano_usd + day.held_nano_usd, day.topup_nano_usd, shares),
        monthly_nano_usd=_part(
            caps.monthly_nano_usd, month.used_nano_usd + month.held_nano_usd, month.topup_nano_usd, shares
        ),
        # Rounded up: with a limit below the number of workers, each may still admit one.
        requests_per_minute=_up(caps.requests_per_minute, shares),
        tokens_per_minute=None if caps.tokens_per_minute is None else caps.tokens_per_minute // shares,
    )


def _part(limit: int | None, used: int, topup: int, shares: int) -> int | None:
    """The limit (without top-up, which the account has) at which one share of what is left is used up."""
    return None if limit is None else used - topup + max(0, limit + topup - used) // shares


def _up(limit: int | None, shares: int) -> int | None:
    return None if limit is None else -(-limit // shares)


def _standing(team: _Team) -> Standing:
    return Standing(_sum(team.seen.daily, team.daily), _sum(team.seen.monthly, team.monthly), team.minute)


def _sum(seen: Account, taken: Account) -> Account:
    return msgspec.structs.replace(
        seen,
        held_tokens=seen.held_tokens + taken.held_tokens,
        held_nano_usd=seen.held_nano_usd + taken.held_nano_usd,
    )


def _take(team: _Team, reservation: Reservation, granted: int) -> None:
    tokens = reservation.input_tokens + granted
    hold = Account(held_tokens=tokens, held_nano_usd=reservation.held_nano_usd(granted) or 0)
    team.daily, team.monthly = _sum(team.daily, hold), _sum(team.monthly, hold)
    left_ms = MINUTE_MS - reservation.now_ms % MINUTE_MS
    team.minute = Minute(team.minute.requests + 1, team.minute.tokens + tokens, left_ms, left_ms, left_ms)
