"""The keeper of health: attempts -> circuits for the workers, figures for people, shared with the other replicas.

In: every attempt, as it is settled. Out: `standings.json`, which this gateway's workers read when their bell is rung,
and `health.json`, which control reads; both below `data_dir`, so that they do not need the shared state. A circuit that
changes is written and told at once; figures follow within a second. What is as it was is not written again, but for
a sign of life every few seconds: the time of `health.json`, a replica's record. Run by the settler.
"""

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from extproc.paths import Paths
from extproc.process import doorbell
from extproc.process.beat import beat
from extproc.process.files import replace_file
from extproc.process.logs import Trouble
from extproc.routing import shared
from extproc.routing.breaker import CLOSED, Circuit
from extproc.routing.deadline import Asked, usual_s
from extproc.routing.health import (
    REFUSED,
    Figures,
    Health,
    Latency,
    Record,
    Seen,
    Standings,
    figures,
    key_of,
    together,
)
from extproc.settings import Settings
from extproc.settle.rows import AttemptRow
from extproc.state import AWAY, State

log = logging.getLogger(__name__)

EVERY_S: Final = 0.5
RECORDS_EVERY: Final = 2  # of those
ALIVE_EVERY_S: Final = 5.0  # three times in shared.CURRENT_S

OnRefused = Callable[[str, int, Circuit], None]  # a provider's or a model's key, status, its circuit


class HealthFile(msgspec.Struct, frozen=True):
    """health.json: what control shows. `drained`: providers."""

    circuits: Mapping[str, Circuit]
    limited_until_s: Mapping[str, float]
    drained: frozenset[str]
    figures: Mapping[str, Figures]
    latencies: Mapping[str, Latency]


class Keeper:
    """`replica`: a name no other settler has. `on_refused`: told when a circuit opens for
    a credential, not when its probes are refused again."""

    def __init__(self, settings: Settings, paths: Paths, client: State, replica: str, on_refused: OnRefused) -> None:
        self._health = Health(settings.breaker)
        self._settings = settings
        self._latencies: Mapping[str, Latency] = {}
        self._paths = paths
        self._client = client
        self._replica = replica
        self._on_refused = on_refused
        self._others: dict[str, dict[str, Record]] = {}
        self._untold: set[str] = set()  # circuits that the others have not heard of
        self._news = asyncio.Event()
        self._written: dict[Path, bytes] = {}
        self._alive_s = -math.inf  # when health.json last said that we are there
        self._left = (-math.inf, b"")  # when the other replicas were last left what
        self._away = Trouble(log, "health is not shared now", "health is shared again")
        self._unwritten = Trouble(log, "health cannot be written", "health is written again", logging.ERROR)

    def use(self, settings: Settings) -> None:
        """Go by `settings` from now on."""
        self._health.use(settings.breaker)
        self._settings = settings

    def start(self, rows: Iterable[AttemptRow]) -> None:
        """Take over circuits from before, and the figures of `rows`, oldest first."""
        for row in rows:
            seen = self._seen(row)
            if seen is not None:
                self._health.count(seen, row.at)
        try:
            before = msgspec.json.decode(self._paths.health.read_bytes(), type=HealthFile)
        except (OSError, msgspec.DecodeError):
            return
        self._health.adopt(before.circuits)
        self._health.drained = before.drained

    def take(self, row: AttemptRow) -> None:
        """One attempt has ended. Does not wait."""
        seen = self._seen(row)
        if seen is None:
            return
        limited = self._health.limited_until_s.get(row.provider)
        before = self._health.circuits() if row.status in REFUSED else {}
        changed = self._health.observe(seen, time.time())
        self._tell(changed)
        for key in changed if row.status in REFUSED else ():
            if not _refused(before.get(key, CLOSED)):
                self._on_refused(key, row.status or 0, self._health.circuits()[key])
        news = bool(changed)
        if self._health.limited_until_s.get(row.provider) != limited:
            self._untold.add(row.provider)
            self._news.set()
            news = True
        if news:  # brought by this attempt: what those before it brought is written
            self._write(time.time())  # not after the shared state was asked, which may be slow or away

    def _seen(self, row: AttemptRow) -> Seen | None:
        """What a row says of its provider; None for one that says nothing."""
        ending = row.verdict
        if ending == "abandoned":
            # The client left, or the next attempt won the race: so long nobody waits for a provider that is well.
            if row.at - row.started_at < self._patience_s(row):
                return None
            ending = "error"
        return Seen(
            provider=row.provider,
            model=row.model,
            ending=ending,
            status=row.status,
            began_s=row.started_at,
            ended_s=row.at,
            first_byte_ms=row.first_byte_ms,
            total_ms=row.total_ms,
            stream=row.stream,
            retry_after_s=row.retry_after_s,
        )

    def _patience_s(self, row: AttemptRow) -> float:
        routing = self._settings.routing
        if routing.first_byte_timeout != "auto":
            return routing.first_byte_timeout
        latency = self._latencies.get(key_of(row.provider, row.model), Latency())
        # Whether it was to be a stream is not known of an attempt without an answer.
        known = ((True, latency.first_byte_p99_ms), (False, latency.whole_p99_ms))
        waits_s = [usual_s(latency, Asked(stream), routing) for stream, p99_ms in known if p99_ms is not None]
        return max(waits_s, default=routing.deadlines.cold)

    def _tell(self, keys: Iterable[str]) -> None:
        for key in keys:
            circuit = self._health.circuits()[key]
            told = {"provider": key, "circuit": circuit.state}
            if circuit.state == "closed":
                log.info("circuit changed", extra=told)
            else:
                log.warning("circuit changed", extra=told | {"reason": circuit.reason})
            self._untold.add(key)
            self._news.set()

    async def run(self) -> None:
        """Write and share, until cancelled."""
        turn = 0
        while True:
            full = turn % RECORDS_EVERY == 0
            if full or self._news.is_set():
                self._news.clear()
                self._write(time.time())
            await self._share(records=full)
            turn += 1
            await beat(EVERY_S, self._news)

    async def _share(self, *, records: bool) -> None:
        try:
            if records:
                found, others = await asyncio.gather(shared.read(self._client), shared.records(self._client))
                self._others = {name: each for name, each in others.items() if name != self._replica}
                await self._leave(self._health.records(now_s := time.time()), now_s)
            else:
                found = await shared.read(self._client)
            self._adopt(found)  # before ours is told: a wait that somebody ended by hand must not come back
            if self._untold:
                untold, self._untold = self._untold, set()
                circuits = {key: circuit for key, circuit in self._health.circuits().items() if key in untold}
                limited = {key: at for key, at in self._health.limited_until_s.items() if key in untold}
                await shared.write(self._client, circuits, limited)
        except (*AWAY, msgspec.DecodeError) as error:
            self._away.seen(error)
            self._others = {}
            self._untold.update(self._health.circuits(), self._health.limited_until_s)

    def _adopt(self, found: shared.Shared) -> None:
        for key in self._health.adopt(found.circuits):
            log.info("circuit changed elsewhere", extra={"provider": key, "circuit": found.circuits[key].state})
            self._news.set()
        if self._health.wait_for(found.limited_until_s) or found.drained != self._health.drained:
            self._health.drained = found.drained
            self._news.set()

    async def _leave(self, records: dict[str, Record], now_s: float) -> None:
        """Leave ours for the others: what is new, and now and then that we are there."""
        left_s, left = self._left
        data = msgspec.json.encode(records)
        if data != left or now_s >= left_s + ALIVE_EVERY_S or self._away.lasts:
            await shared.leave_records(self._client, self._replica, records, now_s)
            self._left = now_s, data
            self._away.over()  # not sooner: a state whose disk is full can be read all the while

    def _write(self, now_s: float) -> None:
        records = together({**self._others, self._replica: self._health.records(now_s)})
        standings = self._health.standings(records, now_s)
        self._latencies = standings.latencies
        known = HealthFile(
            self._health.circuits(),
            standings.limited_until_s,
            standings.drained,
            {key: figures(record) for key, record in records.items()},
            standings.latencies,
        )
        try:
            if self._replace(self._paths.standings, standings):
                doorbell.ring(self._paths)
            if self._replace(self._paths.health, known):
                self._alive_s = now_s
            elif now_s >= self._alive_s + ALIVE_EVERY_S:
                os.utime(self._paths.health)
                self._alive_s = now_s
        except OSError as error:
            self._unwritten.seen(error)
            self._written.clear()  # somebody may have taken them away
        else:
            self._unwritten.over()

    def _replace(self, path: Path, content: Standings | HealthFile) -> bool:
        """Write what is new; whether it was. Raises OSError."""
        data = msgspec.json.encode(content)
        if self._written.get(path) == data:
            return False
        replace_file(path, data)
        self._written[path] = data
        return True


def _refused(circuit: Circuit) -> bool:
    return circuit.state != "closed" and circuit.reason == "credential"
