"""Traces, sent behind everybody's back: a thread of the settler that reads the journal and tells the collector.

In: audit rows that have been settled, with their attempts, in the order they were written down. Out: their spans, at
the collector. How far it has come is kept in the journal, so a settler that is killed goes on where it was; a trace may
then be sent twice, as the same spans. A collector that is slow or dead holds up nothing and fills no memory: rows wait
in the journal; those older than LATEST_S are passed over, and counted.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from operator import itemgetter
from typing import Final, Protocol

import msgspec

from extproc.process.logs import Trouble
from extproc.settings import Settings, Telemetry
from extproc.settle.journal import NOT_NOW, Connection, attempt_row, audit_row
from extproc.settle.marks import advance, mark
from extproc.settle.rows import AttemptRow, AuditRow
from extproc.telemetry.content import Content
from extproc.telemetry.spans import Span, Told, trace

log = logging.getLogger(__name__)

CURSOR: Final = "traces"
FAILURES: Final = "failed_trace_exports"  # counter in the journal: batches that the collector did not take
LATEST_S: Final = 900.0  # a collector that comes back later is not told of what was before
_AT_ONCE: Final = 200  # requests; about 1,000 spans
_PATIENCE_S: Final = 30.0  # for a row's settlement, and for its attempts' entries
_IDLE_S: Final = 0.5
_NOBODY_S: Final = 10.0  # without a collector, for what a worker has told that had not heard of that yet
_AWAY_S: Final = (1.0, 30.0)  # first and longest pause while the collector is away

# Whether a row may be told is asked of each: the first that may not holds up those behind it, or it would be missed.
_ROWS: Final = (
    "SELECT id, completed_at <= ? OR (charged = 1 AND attempts <="  # noqa: S608 - constants
    " (SELECT count(*) FROM attempt WHERE attempt.request_id = audit.request_id)), settled_at,"
    f" {', '.join(AuditRow.__struct_fields__)} FROM audit WHERE id > ? ORDER BY id LIMIT ?"
)
_ATTEMPTS: Final = (
    f"SELECT {', '.join(AttemptRow.__struct_fields__)} FROM attempt"  # noqa: S608 - constants
    " WHERE request_id IN (SELECT value FROM json_each(?)) ORDER BY started_at, id"
)
_CONTENTS: Final = (
    f"SELECT {', '.join(Content.__struct_fields__)} FROM content"  # noqa: S608 - constants
    " WHERE request_id IN (SELECT value FROM json_each(?))"
)


class Sender(Protocol):
    """Where spans go."""

    def send(self, spans: Sequence[Span]) -> bool:
        """Whether they were taken. May take seconds; must not raise."""

    def close(self) -> None:
        """Give up what is being sent."""


class Tracing:
    """`settings`: the configuration now; without an endpoint in it nothing is sent. `start` once, `close` once."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        make_sender: Callable[[Telemetry], Sender],
        settings: Callable[[], Settings],
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._connect = connect
        self._make_sender = make_sender
        self._settings = settings
        self._wall_s = wall_s
        self._closed = False
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._sender: Sender | None = None
        self._made_for: Telemetry | None = None
        self._away = False
        self._told = 0  # up to this row; the mark in the journal lags behind while the disk is full
        self._closed_book = Trouble(
            log, "journal cannot be used for traces; they wait", "journal is used for traces again"
        )

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def look(self) -> None:
        """Look at the configuration now: it may name another collector."""
        self._woken.set()

    def close(self, timeout_s: float) -> None:
        """End, once what is being sent was taken or `timeout_s` is over; the rest is sent after the next start."""
        self._closed = True
        self._woken.set()
        self._thread.join(timeout_s)
        if self._sender is not None:
            self._sender.close()

    def _run(self) -> None:
        connection: Connection | None = None
        pause_s = _IDLE_S
        while self._rested(pause_s):
            try:
                connection = connection or self._connect()
                pause_s = self._pause_after(self.step(connection), pause_s)
                self._closed_book.over()
            except NOT_NOW as error:
                self._closed_book.seen(error)
                connection, pause_s = None, _AWAY_S[0]
            except Exception:
                log.exception("traces cannot be made of these rows; tried again later")
                pause_s = _AWAY_S[1]
        if connection is not None:
            connection.close()

    def _rested(self, pause_s: float) -> bool:
        """Wait. False: it is time to end."""
        self._woken.wait(pause_s)
        self._woken.clear()
        return not self._closed

    def _sender_now(self) -> Sender | None:
        """As the configuration says now; a reload may name another collector."""
        wanted = self._settings().telemetry
        if wanted != self._made_for:
            if self._sender is not None:
                self._sender.close()
            self._sender = self._make_sender(wanted) if wanted.otlp_endpoint else None
            self._made_for = wanted
        return self._sender

    def _pause_after(self, taken: int | None, before_s: float) -> float:
        if taken is None:
            if not self._away:
                log.warning("collector does not take traces; they wait in the journal")
            self._away = True
            return min(max(2 * before_s, _AWAY_S[0]), _AWAY_S[1])
        if self._away and taken:
            log.info("collector takes traces again")
            self._away = False
        if self._sender is None:
            return _NOBODY_S
        return 0.0 if taken == _AT_ONCE else _IDLE_S

    def step(self, connection: Connection) -> int | None:
        """Send one batch. Returns of how many requests; None if the collector did not take it. Raises NOT_NOW."""
        sender = self._sender_now()
        if sender is None:
            # Nobody is going to be told. Without the condition SQLite writes even where there is nothing to delete.
            connection.execute("DELETE FROM content WHERE true")
            return 0
        now_s = self._wall_s()
        place = mark(connection, CURSOR)
        if place < self._told:  # sent, and could not be marked as sent: not again
            _forget(connection, place := self._told)
        waiting = connection.execute(_ROWS, (now_s - _PATIENCE_S, place, _AT_ONCE)).fetchall()
        found = list(takewhile(itemgetter(1), waiting))
        if not found:
            return 0
        rows = [(audit_row(values), settled_at) for _, _, settled_at, *values in found]
        request_ids = [row.request_id for row, _ in rows]
        attempts = _attempts(connection, request_ids)
        contents = _contents(connection, request_ids)
        fresh = [
            Told(row, attempts[row.request_id], settled_at, contents.get(row.request_id))
            for row, settled_at in rows
            if row.completed_at >= now_s - LATEST_S
        ]
        formats = {name: provider.wire_format for name, provider in self._settings().providers.items()}
        spans = [span for told in fresh for span in trace(told, formats)]
        if spans and not sender.send(spans):
            advance(connection, {}, {FAILURES: 1})
            return None
        self._told = found[-1][0]
        _forget(connection, self._told, {"dropped_traces": len(rows) - len(fresh)})
        return len(rows)


def _forget(connection: Connection, place: int, counts: Mapping[str, int] | None = None) -> None:
    """Told is told, up to row `place`: nothing of what was said is kept, even if the mark is then not set."""
    row = "SELECT id FROM audit WHERE audit.request_id = content.request_id"
    connection.execute(f"DELETE FROM content WHERE ({row}) <= ?", (place,))  # noqa: S608 - constants
    advance(connection, {CURSOR: place}, counts)


def _contents(connection: Connection, request_ids: Sequence[str]) -> Mapping[str, Content]:
    wanted = (msgspec.json.encode(request_ids).decode(),)
    return {row[0]: Content(*row) for row in connection.execute(_CONTENTS, wanted)}


def _attempts(connection: Connection, request_ids: Sequence[str]) -> Mapping[str, list[AttemptRow]]:
    found: dict[str, list[AttemptRow]] = defaultdict(list)
    for values in connection.execute(_ATTEMPTS, (msgspec.json.encode(request_ids).decode(),)):
        row = attempt_row(values)
        found[row.request_id].append(row)
    return found
