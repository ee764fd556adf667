"""The charger: audit rows -> the ledger, once each, however often anything dies on the way.

In: rows of the outbox that are not charged. Out: settlements in the ledger; alerts, where one took a budget over a
threshold. While the ledger is away rows wait in the journal, and the holds they belong to wait in the ledger. Run by
the settler beside the access log service.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import msgspec

from extproc.budget.ledger import Bill, Caps, Crossing, LedgerUnavailable, Settlement, Settlements
from extproc.budget.plan import NANO_PER_USD, caps_for
from extproc.budget.windows import Windows, windows_at
from extproc.settings import Team
from extproc.settle.journal import NOT_NOW
from extproc.settle.outbox import Alert, Charge, Outbox

log = logging.getLogger(__name__)

TeamOf = Callable[[str], Team | None]
Account = tuple[str, Windows]  # whose, and what a request without a hold is charged to

_AT_ONCE = 256
_IDLE_S = 1.0  # where nobody says that there are rows
_AWAY_S = 1.0


class Charger:
    """`team_of`: the settings of a team now, None for one that is no longer configured. `written`: set when there are
    new rows."""

    def __init__(self, outbox: Outbox, ledger: Settlements, team_of: TeamOf, written: asyncio.Event) -> None:
        self._outbox = outbox
        self._ledger = ledger
        self._team_of = team_of
        self._written = written
        self._failing = False

    async def run(self) -> None:
        """Charge whatever comes, until cancelled."""
        while True:
            self._written.clear()
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
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._written.wait(), _IDLE_S)

    async def step(self) -> bool:
        """Charge one batch. Returns whether there may be more. Raises LedgerUnavailable, NOT_NOW."""
        charges = await asyncio.to_thread(self._outbox.uncharged, _AT_ONCE)
        if not charges:
            return False
        due: dict[Account, list[Charge]] = {}
        for charge in charges:
            if not charge.owes_nothing:
                due.setdefault(self._account(charge), []).append(charge)
        results = await asyncio.gather(*(self._charge(*each) for each in due.items()), return_exceptions=True)
        done = [charge.id for charge in charges if charge.owes_nothing]
        alerts: list[Alert] = []
        failure: BaseException | None = None
        for charged, result in zip(due.values(), results, strict=True):
            if isinstance(result, BaseException):
                failure = failure or result
            else:
                done += [charge.id for charge in charged]
                alerts += result
        if done:
            await asyncio.to_thread(self._outbox.charged, done, alerts, time.time())
        if failure is not None:
            raise failure
        return len(charges) == _AT_ONCE

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
