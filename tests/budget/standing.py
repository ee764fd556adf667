"""Where a team stands at a fixed noon."""

from extproc.budget.ledger import (
    Standing,
)
from extproc.budget.redis import RedisLedger
from extproc.budget.windows import windows_at

from .builders import NOON_MS

WINDOWS = windows_at(NOON_MS)


async def standing(ledger: RedisLedger, team: str, now_ms: int = NOON_MS) -> Standing:
    return (await ledger.usage(team, now_ms, windows_at(now_ms))).standing
