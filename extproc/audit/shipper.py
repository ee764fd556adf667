"""The shipper: a thread of the settler that copies the journal's rows to the audit database, where there is one.

In: the journal's rows, in the order they were written down; a row that replaces another has a new place in it. Out:
the same rows in PostgreSQL, each once. How far it has come is a mark in the journal that is set after the database has
the rows, so a crash anywhere repeats work, which `audit.write` finds done. The journal keeps what is not copied,
however long the database is away; only readers of the database miss it. Another database (another address) is given
all that the journal still has.

SQLAlchemy is only loaded when there is such a database.
"""

# ruff: noqa: PLC0415

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from extproc.process.logs import Trouble
from extproc.settings import Settings
from extproc.settings.audit import Audit
from extproc.settle.journal import NOT_NOW, Connection, attempt_row, audit_row
from extproc.settle.marks import advance, mark, put_back
from extproc.settle.retention import Retention
from extproc.settle.rows import AttemptRow, AuditRow

if TYPE_CHECKING:
    from extproc.audit.target import Target

log = logging.getLogger(__name__)

KEPT_HERE_S: Final = 86_400.0  # in the journal, of what is in the database too: what estimates are learnt from
REFUSED: Final = "refused_audit_rows"  # the counter
_AT_ONCE: Final = 500  # of each kind
_IDLE_S: Final = 0.5
_AWAY_S: Final = (1.0, 30.0)  # first and longest pause while the database is away
_TRIM_EVERY_S: Final = 60.0


def marks_of(audit: Audit) -> dict[str, str]:
    """By table, the name of the mark of what is in the database of `audit`."""
    digest = hashlib.sha256(audit.place.encode()).hexdigest()[:12]
    return {"audit": f"audit:{digest}", "attempt": f"attempt:{digest}"}


def retention_of(settings: Settings) -> Retention:
    """What the journal keeps."""
    if not settings.audit.shared:
        return Retention(settings.retention)
    return Retention(min(settings.retention, KEPT_HERE_S), marks_of(settings.audit))


def again(journal: Connection, audit: Audit) -> int:
    """Have the database of `audit` given all that the journal still has. Returns how many requests. Raises NOT_NOW."""
    put_back(journal, marks_of(audit).values())
    return int(journal.execute("SELECT count(*) FROM audit").fetchone()[0])


class Shipper:
    """`settings`: the configuration now. `start` once, `close` once."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        settings: Callable[[], Settings],
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._connect = connect
        self._settings = settings
        self._wall_s = wall_s
        self._closed = False
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._journal: Connection | None = None
        self._target: Target | None = None
        self._pause_s: float | None = _IDLE_S  # None: there is no database
        self._away = False
        self._unmarked = Trouble(log, "journal cannot be used for the audit database", "journal is used again")
        self._trim_at = 0.0

    def start(self) -> None:
        """Begin to copy."""
        self._thread.start()

    def look(self) -> None:
        """Look at the configuration now: it may name another database."""
        self._woken.set()

    def close(self, timeout_s: float) -> None:
        """End once what waits is copied, the database is away, or `timeout_s` is over."""
        self._closed = True
        self._woken.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while self._rested():
            self.step()
        while not self._away and self.step():
            pass
        if self._journal is not None:
            self._journal.close()
        if self._target is not None:
            self._target.close()

    def _rested(self) -> bool:
        """Wait. False: it is time to end."""
        self._woken.wait(self._pause_s)
        self._woken.clear()
        return not self._closed

    def step(self) -> int:
        """Copy one batch. Returns of how many rows; 0 too when it could not be."""
        target = self._target_now()
        if target is None:
            self._pause_s = None
            return 0
        try:
            copied = self._copied(target)
            self._trim(target)
        except NOT_NOW as error:
            self._unmarked.seen(error)
            self._journal = None
            self._wait_longer()  # what was copied and could not be marked as copied is copied again
            return 0
        except Exception as error:  # of several libraries; the rows wait, whatever it is
            self._failed(target.reason(error), error)
            return 0
        self._unmarked.over()
        if self._away and copied:
            log.info("audit database takes rows again", extra={"database": target.place})
            self._away = False
        self._pause_s = 0.0 if copied >= _AT_ONCE else _IDLE_S
        return copied

    def _target_now(self) -> "Target | None":
        """As the configuration says now; a reload may name another one."""
        audit = self._settings().audit
        if self._target is not None and self._target.audit != audit:
            self._target.close()
            self._target = None
        if self._target is None and audit.shared:
            from extproc.audit.target import Target

            self._target = Target(audit)
        return self._target

    def _copied(self, target: "Target") -> int:
        journal = self._journal = self._journal or self._connect()
        marks = marks_of(target.audit)
        since = {name: mark(journal, name) for name in marks.values()}
        requests = _next(journal, "audit", AuditRow.__struct_fields__, since[marks["audit"]])
        attempts = _next(journal, "attempt", AttemptRow.__struct_fields__, since[marks["attempt"]])
        if not requests and not attempts:
            return 0
        refused = target.write(
            [audit_row(values) for _, *values in requests], [attempt_row(values) for _, *values in attempts]
        )
        last = {marks[name]: rows[-1][0] for name, rows in (("audit", requests), ("attempt", attempts)) if rows}
        advance(journal, last, {REFUSED: refused}, since=since)
        return max(len(requests), len(attempts))

    def _trim(self, target: "Target") -> None:
        if (now := time.monotonic()) >= self._trim_at:
            self._trim_at = now + _TRIM_EVERY_S
            if dropped := target.trim(self._wall_s(), self._settings().retention):
                log.info("old partitions dropped", extra={"partitions": dropped})

    def _failed(self, reason: str, error: Exception) -> None:
        if not self._away:
            log.warning(
                "audit database does not take rows; they wait in the journal",
                extra={"reason": reason, "kind": type(error).__name__},
            )
        self._away = True
        self._wait_longer()

    def _wait_longer(self) -> None:
        self._pause_s = min(max(2 * (self._pause_s or 0.0), _AWAY_S[0]), _AWAY_S[1])


def _next(connection: Connection, table: str, names: Sequence[str], after: int) -> list[tuple[int, ...]]:
    """Rows after a mark: their ids, then the values of `names`."""
    found: list[tuple[int, ...]] = connection.execute(
        f"SELECT id, {', '.join(names)} FROM {table} WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608 - constants
        (after, _AT_ONCE),
    ).fetchall()
    return found
