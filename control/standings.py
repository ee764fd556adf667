"""How teams stand by the ledger, for usage and metrics.

In: teams. Out: the ledger's counters of each, or nothing for those it could not be asked about.
"""

import asyncio
from collections.abc import Iterable

from extproc.budget.ledger import Accounts, LedgerUnavailable, Standing
from extproc.budget.windows import windows_at
from extproc.settings import Team

_AT_ONCE = 8  # of the connections that the process has


async def standings(ledger: Accounts, teams: Iterable[Team], now_s: float) -> dict[str, Standing]:
    """By team id. Once the ledger did not answer, nobody asks it any more: every question would wait."""
    now_ms = round(now_s * 1000)
    found: dict[str, Standing] = {}
    waiting = iter(teams)

    async def ask() -> None:
        for team in waiting:
            usage = await ledger.usage(team.id, now_ms, windows_at(now_ms, team.budget.timezone))
            found[team.id] = usage.standing

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(ask())
    except* LedgerUnavailable:
        found = {}
    return found
