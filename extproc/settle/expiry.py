"""The expiry: holds that nobody settled within their lease, because Envoy was killed.

In: the ledger's expired holds, charged as held. Out: an audit row for each (`failed`, `unreconciled`), then the
ledger's leave to forget it. A row that comes later all the same takes its place, and is charged what was really used.
A settler that was away first reads what Envoy wrote meanwhile: those requests ended, and have rows of their own. Run by
the settler.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from extproc.budget.ledger import LedgerUnavailable, Settlements, Unreconciled
from extproc.process.beat import beat
from extproc.settle.journal import NOT_NOW
from extproc.settle.outbox import Outbox
from extproc.settle.recent import Recent
from extproc.settle.rows import UNRECONCILED, AuditRow

log = logging.getLogger(__name__)

_EVERY_S = 5.0  # each time all teams are asked, and a lease is minutes long


class Expiry:
    """`teams`: the ids of all teams now. `caught_up`: when what ended before the start has been taken. `recent`: what
    was taken, which the charger puts right."""

    def __init__(
        self,
        outbox: Outbox,
        ledger: Settlements,
        teams: Callable[[], Iterable[str]],
        caught_up: asyncio.Event,
        recent: Recent,
    ) -> None:
        self._caught_up = caught_up
        self._recent = recent
        self._outbox = outbox
        self._ledger = ledger
        self._teams = teams

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        await self._caught_up.wait()
        while True:
            try:
                for team_id in self._teams():
                    await self.step(team_id, time.time())
            except (LedgerUnavailable, *NOT_NOW) as error:
                log.debug("expired holds wait", extra={"reason": str(error)})
            await beat(_EVERY_S)

    async def step(self, team_id: str, now_s: float) -> int:
        """Write down a team's expired holds; how many. Raises LedgerUnavailable, NOT_NOW."""
        now_ms = round(now_s * 1000)
        expired = await self._ledger.expire(team_id, now_ms)
        if not expired:
            return 0
        rows = [unreconciled_row(team_id, hold, now_s) for hold in expired if hold.hold_id not in self._recent]
        if rows:
            await asyncio.to_thread(self._outbox.unreconciled, rows)
            log.warning("unreconciled holds charged as held", extra={"team": team_id, "holds": len(rows)})
        await self._ledger.expire(team_id, now_ms, [hold.hold_id for hold in expired])
        return len(rows)


def unreconciled_row(team_id: str, hold: Unreconciled, now_s: float) -> AuditRow:
    """What can be said of a request of which only its hold is left."""
    received_at = hold.reserved_at_ms / 1000
    input_tokens = hold.tokens - hold.output_tokens
    return AuditRow(
        request_id=hold.hold_id,
        team_id=team_id,
        model_requested="",
        model_routed="",
        model_used=None,
        provider_used=None,
        status="failed",
        error_code=UNRECONCILED,
        http_status=None,
        routing_decision="",
        attempts=0,
        priority="normal",
        stream=False,
        native=False,
        cache_hit=False,
        outrun_tokens=0,
        prompt_hash="",
        input_tokens=input_tokens,
        output_tokens=hold.output_tokens,
        cached_tokens=0,
        cache_write_tokens=0,
        reasoning_tokens=0,
        estimated_input_tokens=input_tokens,
        estimated_output_tokens=hold.output_tokens,
        estimated=True,
        cost_nano_usd=hold.nano_usd,
        finish_reason=None,
        received_at=received_at,
        completed_at=now_s,
        latency_ms=(now_s - received_at) * 1000,
        first_byte_ms=None,
        gateway_latency_ms=None,
        response_bytes=0,
        details=UNRECONCILED,
    )
