"""Requests that end before anybody told Envoy whose they are: all that is known of them may be a hold.

In: access log entries without a team, of requests that no worker answered and that went nowhere: the worker was killed,
or the client left, while the request was being decided. Out: the same entries with the team whose hold has their id, to
the intake, which settles them as any other, and to the cache, where others may wait for their answers. What no team has
a hold for took nothing. Run by the settler.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from extproc.budget.ledger import LedgerUnavailable
from extproc.wire import LOG_REQUEST, M_TEAM, METADATA, OWN_ANSWER
from protos.gen import accesslog_pb2 as pb

log = logging.getLogger(__name__)

_WAIT_S = 0.5  # long enough for a hold that was on its way
_MOST_WAITING = 10_000  # beyond it the end of their lease settles them

Take = Callable[[str, pb.HTTPAccessLogEntry], None]
Left = Callable[[str, str], Awaitable[None]]  # a team's id, a request's


class Finder(Protocol):
    """What the ledger is asked."""

    async def held(self, team_id: str, hold_ids: list[str]) -> set[str]:
        """Which of these holds of a team are open. Raises LedgerUnavailable."""


class Orphans:
    """`teams`: the ids of all teams now."""

    def __init__(self, ledger: Finder, teams: Callable[[], Iterable[str]], left: Left) -> None:
        self._ledger = ledger
        self._teams = teams
        self._left = left
        self._waiting: dict[str, pb.HTTPAccessLogEntry] = {}
        self._news = asyncio.Event()

    def add(self, entry: pb.HTTPAccessLogEntry) -> None:
        """Take an entry without a team, if it may be one of these."""
        common = entry.common_properties
        answered = entry.response.response_code_details.startswith(OWN_ANSWER) or common.upstream_cluster
        if not answered and entry.request.request_id and len(self._waiting) < _MOST_WAITING:
            self._waiting[entry.request.request_id] = entry
            self._news.set()

    async def run(self, take: Take) -> None:
        """Look whose they are, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            await asyncio.sleep(_WAIT_S)
            try:
                await self.step(take)
            except LedgerUnavailable as error:
                log.debug("requests without a team wait", extra={"reason": str(error)})
                self._news.set()

    async def step(self, take: Take) -> None:
        """Settle what waits. Raises LedgerUnavailable; then it goes on waiting."""
        asked = list(self._waiting)
        for team_id in self._teams() if asked else ():
            for request_id in await self._ledger.held(team_id, asked):
                entry = self._waiting.pop(request_id)
                entry.common_properties.metadata.filter_metadata[METADATA].fields[M_TEAM].string_value = team_id
                take(LOG_REQUEST, entry)
                await self._left(team_id, request_id)
        for request_id in asked:
            self._waiting.pop(request_id, None)
