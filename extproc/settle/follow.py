"""The follower: settles from Envoy's request log whatever the access log service did not bring.

In: the log file that Envoy appends to, and which requests are known. Out: entries of the others, to the intake; a small
file. The service is quick but nobody acknowledges it: entries sent while the settler was down are gone. The file is
Envoy's own, so it lacks only what Envoy had not flushed when it was killed. What it has at the start is settled at
once, piece by piece as the journal is written, unless the journal has it. A later line waits a moment, for the service
brings it normally. Run by the settler.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from extproc.process.beat import beat
from extproc.process.http1 import ask
from extproc.process.logs import Trouble
from extproc.settle.journal import NOT_NOW
from extproc.settle.logfile import entry, request_id, whose
from extproc.settle.recent import Recent
from extproc.wire import LOG_REQUEST
from protos.gen import accesslog_pb2 as pb

log = logging.getLogger(__name__)

Take = Callable[[str, pb.HTTPAccessLogEntry], None]
KnownOf = Callable[[Iterable[str]], set[str]]

ROTATE_BYTES = 32 * 1024 * 1024
WAIT_S = 2.0  # for the service to bring an entry: it flushes ten times a second
_EVERY_S = 0.5
_READ_BYTES = 1024 * 1024
_MOST_UNWRITTEN = 10_000  # rows: a settler that was away for long must not fill the memory, nor drop any


class Follower:
    """`known_of`: which of some ids the journal has; runs in a thread. `unwritten`: how many rows wait for the journal.
    `admin`: Envoy's socket, to reopen its logs. `caught_up`: what was in the file at the start has been taken."""

    def __init__(
        self, path: Path, admin: Path, recent: Recent, known_of: KnownOf, take: Take, *, unwritten: Callable[[], int]
    ) -> None:
        self.caught_up = asyncio.Event()
        self._path = path
        self._old = path.with_suffix(".old")
        self._admin = admin
        self._recent = recent
        self._known_of = known_of
        self._take = take
        self._unwritten = unwritten
        self._file: BinaryIO | None = None
        self._rest = b""
        self._waiting: list[tuple[float, str, bytes]] = []  # (since, id, line)
        self._unread = Trouble(log, "request log cannot be read", "request log is read again")
        self._unrotated = Trouble(log, "Envoy does not reopen its log", "Envoy has reopened its log")

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                more = await self.step(time.monotonic())
                self._unread.over()
            except NOT_NOW as error:  # of the file, or of the journal that is asked what it has
                self._unread.seen(error)
                more = False
            if not more:
                await beat(_EVERY_S)

    async def step(self, now_s: float) -> bool:
        """Read on, settle what has waited long enough. Returns whether there is more to read at once."""
        if self._unwritten() > _MOST_UNWRITTEN:
            return False
        lines = await asyncio.to_thread(self._read) if self._grown() else []
        for line in lines:
            found = request_id(line)
            if found is not None:
                self._waiting.append((now_s, found, line))
        await self._settle(now_s)
        if not lines:
            self.caught_up.set()
            await self._move_on()
        return bool(lines)

    async def _settle(self, now_s: float) -> None:
        self._waiting = [item for item in self._waiting if item[1] not in self._recent]
        until_s = now_s - WAIT_S if self.caught_up.is_set() else now_s
        due = [(found, line) for since_s, found, line in self._waiting if since_s <= until_s]
        if not due:
            return
        known = await asyncio.to_thread(self._known_of, [found for found, _ in due])
        self._waiting = self._waiting[len(due) :]
        missing = [(found, line) for found, line in due if found not in known and found not in self._recent]
        for _, line in missing:
            try:
                self._take(LOG_REQUEST, entry(line))
            except Exception as error:  # as by the service: it must not cost the others
                log.error("unreadable line in the request log", extra={"reason": str(error)} | whose(line))
        if missing:
            log.info("settled from the request log", extra={"requests": len(missing)})

    # --- the file ------------------------------------------------------------------------------------------------

    def _open_oldest(self) -> None:
        for path in (self._old, self._path):
            if path.exists():
                self._file = path.open("rb")
                return

    def _grown(self) -> bool:
        """Whether there is something to read, or a file to open."""
        if self._file is None:
            return self._path.exists() or self._old.exists()
        return os.fstat(self._file.fileno()).st_size > self._file.tell()

    def _read(self) -> list[bytes]:
        """Whole lines that are new."""
        if self._file is None:
            self._open_oldest()
            if self._file is None:
                return []
        data = self._rest + self._file.read(_READ_BYTES)
        whole, newline, self._rest = data.rpartition(b"\n")
        return whole.split(b"\n") if newline else []

    async def _move_on(self) -> None:
        """At the end of the file: from a finished one to the next; from one that grew large to a new one."""
        if self._file is None or self._waiting:
            return
        if self._old.exists():
            if self._path.exists():  # Envoy writes the new one
                await asyncio.to_thread(self._drop_old)
            else:
                await self._reopen()
        elif self._file.tell() > ROTATE_BYTES:
            self._path.rename(self._old)
            await self._reopen()

    def _drop_old(self) -> None:
        if self._file is not None:
            self._file.close()
        self._old.unlink()
        self._file, self._rest = None, b""

    async def _reopen(self) -> None:
        """Have Envoy write to a new file. It is asked again at the next step if it does not."""
        try:
            await ask(self._admin, "/reopen_logs", "POST")
        except (OSError, TimeoutError) as error:
            self._unrotated.seen(type(error).__name__)
        else:
            self._unrotated.over()
