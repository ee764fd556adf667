"""The journal: a SQLite file with the audit rows, the attempts, and sums of them.

In: batches of rows, each batch one transaction. Out: durable rows, and the sums that the usage and metrics endpoints
read, which are kept in the same transaction so that they always agree with the rows. Written by the settler alone
(its writer thread), read by the control API.

Durability: WAL with synchronous=FULL. What a transaction committed survives `kill -9` of any process (it would with
NORMAL) and loss of power (it would not with NORMAL, which syncs only at checkpoints): these rows are money. A batch is
one sync, so the price does not grow with the load.

Its tables are in `settle.migrations`; `PRAGMA user_version` says how many of those were made.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from extproc.settle import sums
from extproc.settle.dues import Charge, Charged
from extproc.settle.migrations import MIGRATIONS
from extproc.settle.rows import UNRECONCILED, AttemptRow, AuditRow
from extproc.settle.sums import Table
from extproc.telemetry.content import Content

_BUSY_MS: Final = 2_000


def _insert(table: str, fields: Sequence[str], otherwise: Literal["IGNORE", "REPLACE"] = "IGNORE") -> str:
    """A row that is there already (by its unique key) stays as it is, or gives way."""
    return f"INSERT OR {otherwise} INTO {table} ({', '.join(fields)}) VALUES ({', '.join('?' * len(fields))})"  # noqa: S608


_INSERT_AUDIT: Final = _insert("audit", AuditRow.__struct_fields__)
# What is left of a hold was charged when its lease ended. Were it to be charged once more, as itself, the ledger would
# take it for the request's own bill, and pass over the one that comes late.
_INSERT_CHARGED: Final = _INSERT_AUDIT.replace(") VALUES (", ", charged) VALUES (").replace("?)", "?, 1)")
# The id is chosen while the old row is still there: it is a new one, beyond all that readers have passed.
_REPLACE_AUDIT: Final = _insert("audit", AuditRow.__struct_fields__, "REPLACE")
_INSERT_ATTEMPT: Final = _insert("attempt", AttemptRow.__struct_fields__)
_CHARGED: Final = "UPDATE audit SET charged = 1, settled_at = ? WHERE id = ?"
_INSERT_ALERT: Final = (
    "INSERT OR IGNORE INTO alert (id, team_id, body, tries, next_at, delivered) VALUES (?, ?, ?, 0, ?, 0)"
)
_INSERT_CONTENT: Final = _insert("content", Content.__struct_fields__)


def _add(table: Table[Any]) -> str:
    """A statement that adds to a row of `table`, or makes it."""
    columns = (*table.keys, *table.summed)
    return (
        f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
        f" ON CONFLICT DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in table.summed)}"
    )


_SUM_TABLES: Final[tuple[Table[Any], ...]] = (*sums.TABLES, sums.ATTEMPTED)
_ADD: Final = {table.name: _add(table) for table in _SUM_TABLES}
_ADD_COUNTER: Final = "INSERT INTO counter VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value"


class JournalTooNewError(Exception):
    """The file was written by a newer version of the gateway."""


Connection = sqlite3.Connection
# What `connect` and `write` raise of rows that SQLite will never take, and what they raise else: later may be better.
NEVER_TAKEN = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, OverflowError, ValueError)
NOT_NOW = (sqlite3.Error, OSError, JournalTooNewError)


class Batch(msgspec.Struct, frozen=True):
    """What one transaction writes."""

    requests: Sequence[AuditRow] = ()
    attempts: Sequence[AttemptRow] = ()
    counts: Mapping[str, int] = {}  # to add, by counter name
    contents: Sequence[Content] = ()  # wait here for their traces, and no longer
    charged: Sequence[Charged] = ()

    def __len__(self) -> int:
        return len(self.requests) + len(self.attempts) + len(self.contents) + len(self.charged)


def connect(path: Path, migrations: Sequence[str] = MIGRATIONS) -> Connection:
    """Open the journal to write, made or brought up to date. Raises NOT_NOW."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_MS / 1000)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        _migrate(connection, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: Connection, migrations: Sequence[str]) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise JournalTooNewError(
            f"the journal has schema {version}; this version of the gateway knows {len(migrations)}"
        )
    for number, script in enumerate(migrations[version:], start=version + 1):
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")
        except BaseException:
            _rollback(connection)
            raise


def write(connection: Connection, batch: Batch) -> list[Charge]:
    """Write all of `batch` or nothing; what its new rows owe. Rows already written are passed over. Raises NEVER_TAKEN,
    NOT_NOW."""
    with transaction(connection):
        for charged in batch.charged:
            connection.executemany(_CHARGED, [(charged.at_s, row) for row in charged.ids])
            alerts = [(alert.id, alert.team_id, alert.body, charged.at_s) for alert in charged.alerts]
            connection.executemany(_INSERT_ALERT, alerts)
        added = [(row, _added(connection, _statement(row), row)) for row in batch.requests]
        # A row made of a hold alone gives way to the request's own, which is late but knows what was used.
        late = {row.request_id: row for row, number in added if not number and row.error_code != UNRECONCILED}
        stale = _stale(connection, list(late)) if late else []
        added += [(row, _added(connection, _REPLACE_AUDIT, row)) for row in (late[each.request_id] for each in stale)]
        new = [row for row, number in added if number]
        tried = [row for row in batch.attempts if _added(connection, _INSERT_ATTEMPT, row)]
        for table in sums.TABLES:
            connection.executemany(_ADD[table.name], [*table.added(new), *table.added(stale, -1)])
        connection.executemany(_ADD["attempted"], sums.ATTEMPTED.added(tried))
        connection.executemany(_ADD_COUNTER, batch.counts.items())
        connection.executemany(_INSERT_CONTENT, map(msgspec.structs.astuple, batch.contents))
    return [Charge.of(number, row) for row, number in added if number and row.error_code != UNRECONCILED]


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """All or nothing. Raises NOT_NOW and what the statements raise."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:
        _rollback(connection)
        raise


def _stale(connection: Connection, request_ids: Sequence[str]) -> list[AuditRow]:
    """The unreconciled rows of these requests."""
    names = ", ".join(AuditRow.__struct_fields__)
    found = connection.execute(
        f"SELECT {names} FROM audit WHERE error_code = ? AND request_id IN (SELECT value FROM json_each(?))",  # noqa: S608
        (UNRECONCILED, msgspec.json.encode(request_ids).decode()),
    )
    return [audit_row(values) for values in found]


def _statement(row: AuditRow) -> str:
    return _INSERT_CHARGED if row.error_code == UNRECONCILED else _INSERT_AUDIT


def _added(connection: Connection, statement: str, row: AuditRow | AttemptRow) -> int | None:
    """The new row's id; None: it is there already."""
    done = connection.execute(statement, msgspec.structs.astuple(row))
    return done.lastrowid if done.rowcount == 1 else None


def _rollback(connection: Connection) -> None:
    # A disk that is full ends the transaction by itself.
    if connection.in_transaction:
        connection.rollback()


def latest(connection: Connection, most: int) -> list[AuditRow]:
    """The last rows written, at most `most`, oldest first."""
    names = AuditRow.__struct_fields__
    rows = connection.execute(f"SELECT {', '.join(names)} FROM audit ORDER BY id DESC LIMIT ?", (most,))  # noqa: S608
    return [audit_row(row) for row in reversed(rows.fetchall())]


def attempts_since(connection: Connection, since_s: float) -> list[AttemptRow]:
    """Attempts that ended from `since_s` on, oldest first."""
    names = AttemptRow.__struct_fields__
    rows = connection.execute(f"SELECT {', '.join(names)} FROM attempt WHERE at >= ? ORDER BY at", (since_s,))  # noqa: S608
    return [msgspec.convert(dict(zip(names, row, strict=True)), AttemptRow, strict=False) for row in rows]


def audit_row(values: Sequence[object]) -> AuditRow:
    """Columns in the order of AuditRow's fields -> the row. Raises msgspec.ValidationError."""
    # strict=False: SQLite has no booleans.
    return msgspec.convert(dict(zip(AuditRow.__struct_fields__, values, strict=True)), AuditRow, strict=False)


def attempt_row(values: Sequence[object]) -> AttemptRow:
    """Columns in the order of AttemptRow's fields -> the row. Raises msgspec.ValidationError."""
    return msgspec.convert(dict(zip(AttemptRow.__struct_fields__, values, strict=True)), AttemptRow, strict=False)
