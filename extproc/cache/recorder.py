"""The recorder: what passed to clients -> the store, behind their replies.

In: recordings and tickets given back, from the event loop of a worker or the settler; neither waits. Out: entries, and
flights that end. One task does it, in order; when more waits than the bounds allow, the newest is not kept.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from extproc.cache.counts import Counts
from extproc.cache.ports import Entries, StoreUnavailable
from extproc.cache.recording import NotKept, entry_of
from extproc.cache.tape import Recording
from extproc.cache.ticket import Ticket
from extproc.settings import Cache
from extproc.telemetry.trace_context import ids

log = logging.getLogger(__name__)

MOST_WAITING_BYTES = 64 * 1024 * 1024


class Recorder:
    """`settings`: those of now. Implements tape.Taker."""

    def __init__(
        self,
        settings: Callable[[], Cache],
        entries: Entries,
        counts: Counts,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._entries = entries
        self._counts = counts
        self._wall_s = wall_s
        self._waiting: deque[Recording | Ticket] = deque()
        self._waiting_bytes = 0
        self._some = asyncio.Event()
        self._failing = False

    def keep(self, recording: Recording) -> None:
        """See tape.Taker."""
        if self._waiting_bytes + len(recording.body) > MOST_WAITING_BYTES:
            self._counts.add(recording.ticket.team_id, "refused", detail="busy")
            self.give_up(recording.ticket)
            return
        self._waiting_bytes += len(recording.body)
        self._add(recording)

    def give_up(self, ticket: Ticket) -> None:
        """See tape.Taker."""
        if ticket.flight:
            self._add(ticket)

    def _add(self, what: Recording | Ticket) -> None:
        self._waiting.append(what)
        self._some.set()

    async def run(self) -> None:
        """Store whatever comes, until cancelled."""
        while True:
            await self._some.wait()
            while self._waiting:
                await self.step()
            self._some.clear()

    async def drain(self) -> None:
        """Store what waits, once `run` has ended; at most for as long as the store takes to say no."""
        while self._waiting and not self._failing:
            await self.step()

    async def step(self) -> None:
        """Do the oldest."""
        what = self._waiting.popleft()
        ticket = what if isinstance(what, Ticket) else what.ticket
        try:
            if isinstance(what, Recording):
                self._waiting_bytes -= len(what.body)
                await self._store(what)
            else:
                await self._entries.land(ticket.key, ticket.flight)
            self._failing = False
        except StoreUnavailable as error:
            self._counts.add(ticket.team_id, "errors", detail="store")
            if not self._failing:
                log.warning("answers are not kept", extra={"reason": str(error)})
            self._failing = True
        except Exception:  # one answer, whatever is wrong with it, must not end the recording of all others
            whose = {"team": ticket.team_id} | ids(ticket.request_id, ticket.traceparent)
            log.exception("answer not kept", extra=whose)

    async def _store(self, recording: Recording) -> None:
        settings, ticket = self._settings(), recording.ticket
        try:
            entry = entry_of(recording, settings, round(self._wall_s() * 1000))
        except NotKept as refusal:
            self._counts.add(ticket.team_id, "refused", detail=refusal.reason)
            if ticket.flight:
                await self._entries.land(ticket.key, ticket.flight)
            return
        stowed = await self._entries.store(entry, ticket, round(settings.ttl * 1000), settings.max_bytes_per_team)
        if stowed.outcome == "kept":
            self._counts.add(ticket.team_id, "stores")
            self._counts.add(ticket.team_id, "evictions", stowed.evicted)
        else:
            self._counts.add(ticket.team_id, "refused", detail=stowed.outcome)
