"""The writer: a thread that takes rows from the event loop to the journal.

In: `add`, `count` and `mark` from the event loop, which never wait. Out: one transaction per batch, and what its rows
owe; a batch is what came in while the last one was written, and for a moment longer. When the journal cannot be written
(locked, disk full), rows wait in memory, up to a bound, and it is tried again until it can; that is logged once, and
once when it is over. Also deletes what is older than the retention, a few rows at a time.
"""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable

from extproc.process.logs import Trouble
from extproc.settle.dues import Charge, Charged
from extproc.settle.journal import NEVER_TAKEN, NOT_NOW, Batch, Connection, write
from extproc.settle.retention import Retention, delete_before
from extproc.settle.rows import AttemptRow, AuditRow
from extproc.telemetry.content import Content
from extproc.telemetry.trace_context import ids

log = logging.getLogger(__name__)

MOST_WAITING = 100_000  # rows; about 150 MB
_GATHER_S = 0.1  # Envoy hands its entries over so often, in several streams
_MARKS_S = 0.2  # for rows to come that they can be written with: under load they cost no transaction of their own
_MOST_IN_BATCH = 4_000
_RETRY_S = (0.1, 5.0)  # first and longest pause
_TRIM_EVERY_S = 60.0
_TRIM_ROWS = 500

Row = AuditRow | AttemptRow | Content


class Writer:
    """Owns the connection that rows are written by. `start` once, `close` once. `owed`: called by its thread with what
    rows owe that were written just now."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        retention: Retention,
        *,
        owed: Callable[[list[Charge]], object] = lambda _: None,
        most_waiting: int = MOST_WAITING,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._connect = connect
        self._retention = retention
        self._owed = owed
        self._most_waiting = most_waiting
        self._wall_s = wall_s
        self._connection: Connection | None = None
        self._changed = threading.Condition()
        self._rows: list[Row] = []
        self._charged: list[Charged] = []
        self._counts: Counter[str] = Counter()
        self._in_hand = 0  # rows taken out of `_rows` and not yet written
        self._dropped = 0
        self._closed = threading.Event()
        self._give_up_at = math.inf  # monotonic; set by `close`
        self._trim_at = 0.0
        self._untrimmed = Trouble(log, "old rows cannot be deleted", "old rows are deleted again")
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def keep(self, retention: Retention) -> None:
        """Delete what `retention` does not keep from now on."""
        self._retention = retention

    @property
    def waiting(self) -> int:
        """Rows that are not written yet."""
        return len(self._rows) + self._in_hand

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def add(self, row: Row) -> None:
        """Have `row` written. Dropped, and counted, if too many wait."""
        with self._changed:
            if self.waiting >= self._most_waiting:
                self._dropped += 1
                self._counts["dropped_rows"] += 1
                return
            self._rows.append(row)
            if len(self._rows) == 1:
                self._changed.notify()

    def mark(self, charged: Charged) -> None:
        """Have the journal know what is charged, with the next rows if they come soon. Never dropped: there is no more
        of it than of rows already written."""
        with self._changed:
            self._charged.append(charged)
            self._changed.notify()

    def count(self, name: str) -> None:
        """Add one to the journal's counter `name`."""
        with self._changed:
            self._counts[name] += 1
            self._changed.notify()

    def close(self, timeout_s: float) -> int:
        """Write what waits, for at most `timeout_s`, and end. Returns how many rows could not be written."""
        with self._changed:
            self._give_up_at = time.monotonic() + timeout_s
            self._closed.set()
            self._changed.notify()
        self._thread.join()
        return self.waiting

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            if not self._store(batch):
                break
            self._in_hand = 0
            self._trim()
        if self._connection is not None:
            self._connection.close()

    def _next_batch(self) -> Batch | None:
        """What waits, empty when it is only time to trim; None when it is time to end."""
        with self._changed:
            if self._nothing_new() and not self._charged:
                self._changed.wait(max(_GATHER_S, self._trim_at - time.monotonic()))
            if self._nothing_new() and self._charged:
                self._changed.wait(_MARKS_S)
        self._closed.wait(_GATHER_S)
        with self._changed:
            if self._closed.is_set() and not self._rows and not self._counts and not self._charged:
                return None
            rows, self._rows = self._rows[:_MOST_IN_BATCH], self._rows[_MOST_IN_BATCH:]
            counts, self._counts = self._counts, Counter()
            charged, self._charged = self._charged, []
            self._in_hand = len(rows)
        return Batch(
            [row for row in rows if isinstance(row, AuditRow)],
            [row for row in rows if isinstance(row, AttemptRow)],
            counts,
            [row for row in rows if isinstance(row, Content)],
            charged,
        )

    def _nothing_new(self) -> bool:
        return not self._rows and not self._counts and not self._closed.is_set()

    def _store(self, batch: Batch) -> bool:
        """Write `batch`, however often it takes. False: given up, as it is time to end."""
        pause_s, failed = _RETRY_S[0], False
        while True:
            try:
                self._write(batch)
            except NOT_NOW as error:
                if not failed:
                    log.error("journal cannot be written; rows wait in memory", extra={"reason": str(error)})
                failed = True
                self._disconnect()
                if not self._pause(pause_s):
                    return False
                pause_s = min(2 * pause_s, _RETRY_S[1])
            else:
                if failed:
                    log.info("journal is written again", extra={"rows": len(batch), "dropped": self._dropped})
                return True

    def _write(self, batch: Batch) -> None:
        """Write `batch`; a row that SQLite will never take is left out rather than hold up all others."""
        if not len(batch) and not batch.counts:
            return
        if self._connection is None:
            self._connection = self._connect()
        try:
            charges = write(self._connection, batch)
        except NEVER_TAKEN as error:
            if len(batch) + bool(batch.counts) <= 1:
                told = {"row": repr(batch), "reason": str(error)}
                log.error("row cannot be written", extra=told | _whose(self._connection, batch))
                self.count("unwritable_rows")
                return
            parts = (
                *(Batch([row]) for row in batch.requests),
                *(Batch((), [row]) for row in batch.attempts),
                *(Batch(contents=[row]) for row in batch.contents),
                *(Batch(charged=[row]) for row in batch.charged),
            )
            for part in parts:
                self._write(part)
            self._write(Batch(counts=batch.counts))
        else:
            if charges:
                self._owed(charges)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _pause(self, seconds: float) -> bool:
        """Wait. False: it is time to give up."""
        if self._closed.wait(seconds):
            time.sleep(_RETRY_S[0])
        return time.monotonic() < self._give_up_at

    def _trim(self) -> None:
        """One small step of deleting; the next one follows soon as long as there is something to delete."""
        now = time.monotonic()
        if now < self._trim_at:
            return
        try:
            self._connection = self._connection or self._connect()
            deleted = delete_before(self._connection, self._wall_s(), self._retention, _TRIM_ROWS)
            self._untrimmed.over()
        except NOT_NOW as error:
            self._untrimmed.seen(error)
            deleted = 0
        self._trim_at = now + (0.0 if deleted >= _TRIM_ROWS else _TRIM_EVERY_S)


def _whose(connection: Connection, batch: Batch) -> dict[str, str]:
    """Whose row it is, of a batch with one. An attempt's trace is told by its request's row, which is written first."""
    for row in batch.requests:
        return ids(row.request_id, row.traceparent)
    others = [*(row.request_id for row in batch.attempts), *(content.request_id for content in batch.contents)]
    for request_id in others:
        found = connection.execute("SELECT traceparent FROM audit WHERE request_id = ?", (request_id,)).fetchone()
        return ids(request_id, found[0]) if found else {"request_id": request_id}
    return {}
