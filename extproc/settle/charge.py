"""The charger: audit rows -> the ledger, once each, however often anything dies on the way.

In: what the rows owe that the writer has just written, and at the start, or when the ledger was away, whatever the
journal has that is not charged. Out: settlements in the ledger; which rows are charged, and alerts, where one took a
budget over a threshold, to the journal. While the ledger is away rows wait in the journal, and the holds they belong to
wait in the ledger. Run by the settler beside the access log service.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from extproc.budget.ledger import Bill, Caps, Crossing, LedgerUnavailable, Settlement, Settlements
from extproc.budget.plan import NANO_PER_USD, caps_for
from extproc.budget.windows import Windows, windows_at
from extproc.settings import Team
from extproc.settle.dues import Alert, Charge, Charged
from extproc.settle.journal import NOT_NOW
from extproc.settle.outbox import Outbox

log = logging.getLogger(__name__)

TeamOf = Callable[[str], Team | None]
Account = tuple[str, Windows]  # whose, and what a request without a hold is charged to

_AT_ONCE = 256
_AWAY_S = 1.0


class Charger:
    """`team_of`: the settings of a team now, None for one that is no longer configured. `mark`: has the journal know
    what is charged, soon. Power lost before it does, or this process: the row is charged again, which the ledger knows
    and does not count."""

    def __init__(self, outbox: Outbox, ledger: Settlements, team_of: TeamOf, mark: Callable[[Charged], object]) -> None:
        self._outbox = outbox
        self._ledger = ledger
        self._team_of = team_of
        self._mark = mark
        self._behind = True  # the journal may have rows to charge that are not in `_fresh`
        self._fresh: list[Charge] = []
        self._news = asyncio.Event()
        self._failing = False

    def take(self, charges: list[Charge]) -> None:
        """Charge these rows, which are in the journal."""
        self._fresh += charges
        self._news.set()

    async def run(self) -> None:
        """Charge whatever comes, until cancelled."""
        while True:
            try:
                busy = await self.step()
            except (LedgerUnavailable, *NOT_NOW) as error:
                if not self._failing:
                    log.warning("rows wait to be charged", extra={"reason": str(error)})
                self._failing = True
                await asyncio.sleep(_AWAY_S)
                continue
            if self._failing:
                log.info("rows are charged again")
                self._failing = False
            if not busy:
                self._news.clear()
                await self._news.wait()

    async def rest(self) -> None:
        """Charge what the journal has, which nobody writes to any more. Raises LedgerUnavailable, NOT_NOW."""
        self._behind = True
        while await self.step():
            pass

    async def step(self) -> bool:
        """Charge one batch. Returns whether there may be more. Raises LedgerUnavailable, NOT_NOW."""
        if self._behind:
            self._fresh = []  # what was written until now is found in the journal
            charges = await asyncio.to_thread(self._outbox.uncharged, _AT_ONCE)
            charged, failure = await self._settle(charges)
            if charged.ids:  # at once: the next look must not find them again
                await asyncio.to_thread(self._outbox.charged, charged)
            if failure is not None:
                raise failure
            self._behind = len(charges) == _AT_ONCE
        else:
            charges, self._fresh = self._fresh[:_AT_ONCE], self._fresh[_AT_ONCE:]
            charged, failure = await self._settle(charges)
            if charged.ids:
                self._mark(charged)
            if failure is not None:
                self._behind = True
                raise failure
        return self._behind or bool(self._fresh)

    async def _settle(self, charges: list[Charge]) -> tuple[Charged, BaseException | None]:
        """What of `charges` is done, and why not all of it is."""
        done = [charge.id for charge in charges if charge.owes_nothing]
        due: dict[Account, list[Charge]] = {}
        for charge in charges:
            if not charge.owes_nothing:
                due.setdefault(self._account(charge), []).append(charge)
        results = await asyncio.gather(*(self._charge(*each) for each in due.items()), return_exceptions=True)
        alerts: list[Alert] = []
        failure: BaseException | None = None
        for charged, result in zip(due.values(), results, strict=True):
            if isinstance(result, BaseException):
                failure = failure or result
            else:
                done += [charge.id for charge in charged]
                alerts += result
        return Charged(done, time.time(), alerts), failure

    def _account(self, charge: Charge) -> Account:
        team = self._team_of(charge.team_id)
        zone = team.budget.timezone if team else "UTC"
        return charge.team_id, windows_at(round(charge.received_at * 1000), zone)

    async def _charge(self, account: Account, charges: list[Charge]) -> list[Alert]:
        team_id, windows = account
        team = self._team_of(team_id)
        settlement = Settlement(
            team_id=team_id,
            bills=tuple(
                Bill(charge.request_id, charge.tokens, charge.nano_usd if charge.tokens else 0) for charge in charges
            ),
            windows=windows,
            caps=caps_for(team.budget, team.limits) if team else Caps(),
            thresholds_pct=team.alert.thresholds_pct if team else (),
        )
        settled = await self._ledger.settle(settlement)
        return [alert_of(team_id, crossing, time.time()) for crossing in settled.crossings]


def alert_of(team_id: str, crossing: Crossing, now_s: float) -> Alert:
    """The alert of a crossing, with the body its webhook will get."""
    usd = crossing.unit == "nano_usd"

    def amount(value: int) -> int | float:
        return value / NANO_PER_USD if usd else value

    body = {
        "event": "budget.alert",
        "team_id": team_id,
        "window": crossing.window,
        "unit": "usd" if usd else "tokens",
        "threshold_pct": crossing.threshold_pct,
        "pct_used": round(100 * crossing.used / crossing.limit, 2) if crossing.limit else 100.0,
        "used": amount(crossing.used),
        "limit": amount(crossing.limit),
        "at": datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds"),
    }
    parts = (team_id, crossing.window_id, crossing.unit, f"{crossing.threshold_pct:g}")
    return Alert(":".join(parts), team_id, msgspec.json.encode(body).decode())
