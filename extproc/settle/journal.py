"""The journal: a SQLite file with the audit rows, the attempts, and sums of them.

In: batches of rows, each batch one transaction. Out: durable rows, and the sums that the usage and metrics endpoints
read, which are kept in the same transaction so that they always agree with the rows. Written by the settler alone
(its writer thread), read by the control API.

Durability: WAL with synchronous=FULL. What a transaction committed survives `kill -9` of any process (it would with
NORMAL) and loss of power (it would not with NORMAL, which syncs only at checkpoints): these rows are money. A batch is
one sync, so the price does not grow with the load.

Schema changes go forward only: MIGRATIONS is appended to, never edited; `PRAGMA user_version` says how many were made.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from extproc.settle import sums
from extproc.settle.dues import Charge, Charged
from extproc.settle.rows import UNRECONCILED, AttemptRow, AuditRow
from extproc.settle.sums import Table
from extproc.telemetry.content import Content

_BUSY_MS: Final = 2_000

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY,
        request_id TEXT NOT NULL UNIQUE,
        team_id TEXT NOT NULL,
        model_requested TEXT NOT NULL,
        model_routed TEXT NOT NULL,
        model_used TEXT,
        provider_used TEXT,
        status TEXT NOT NULL,
        error_code TEXT,
        http_status INTEGER,
        routing_decision TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        priority TEXT NOT NULL,
        stream INTEGER NOT NULL,
        native INTEGER NOT NULL,
        cache_hit INTEGER NOT NULL,
        prompt_hash TEXT NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        cache_write_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        estimated_input_tokens INTEGER NOT NULL,
        estimated_output_tokens INTEGER NOT NULL,
        estimated INTEGER NOT NULL,
        cost_nano_usd INTEGER,
        finish_reason TEXT,
        received_at REAL NOT NULL,
        completed_at REAL NOT NULL,
        latency_ms REAL NOT NULL,
        first_byte_ms REAL,
        gateway_latency_ms REAL,
        response_bytes INTEGER NOT NULL,
        details TEXT NOT NULL
    );
    CREATE INDEX audit_received ON audit (received_at);
    CREATE INDEX audit_team_received ON audit (team_id, received_at);
    CREATE INDEX audit_status_received ON audit (status, received_at);
    CREATE TABLE attempt (
        id INTEGER PRIMARY KEY,
        request_id TEXT NOT NULL,
        provider TEXT NOT NULL,
        started_at REAL NOT NULL,
        verdict TEXT NOT NULL,
        status INTEGER,
        flags TEXT NOT NULL,
        first_byte_ms REAL,
        total_ms REAL,
        at REAL NOT NULL,
        UNIQUE (request_id, started_at, provider)
    );
    CREATE INDEX attempt_provider_verdict_at ON attempt (provider, verdict, at);
    CREATE TABLE sums (
        bucket_s INTEGER NOT NULL,
        team_id TEXT NOT NULL,
        model TEXT NOT NULL,
        provider TEXT NOT NULL,
        status TEXT NOT NULL,
        requests INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        cost_nano_usd INTEGER NOT NULL,
        unpriced INTEGER NOT NULL,
        latency_ms REAL NOT NULL,
        PRIMARY KEY (bucket_s, team_id, model, provider, status)
    ) WITHOUT ROWID;
    CREATE INDEX sums_team ON sums (team_id, bucket_s);
    CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    """,
    """
    ALTER TABLE audit ADD COLUMN charged INTEGER NOT NULL DEFAULT 0;
    UPDATE audit SET charged = 1;
    CREATE INDEX audit_uncharged ON audit (id) WHERE charged = 0;
    CREATE TABLE alert (
        id TEXT PRIMARY KEY,
        team_id TEXT NOT NULL,
        body TEXT NOT NULL,
        tries INTEGER NOT NULL,
        next_at REAL NOT NULL,
        delivered INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX alert_due ON alert (next_at) WHERE delivered = 0;
    """,
    """
    CREATE TABLE histogram (
        metric TEXT NOT NULL,
        team_id TEXT NOT NULL,
        model TEXT NOT NULL,
        provider TEXT NOT NULL,
        detail TEXT NOT NULL,
        bucket INTEGER NOT NULL,
        count INTEGER NOT NULL,
        total REAL NOT NULL,
        PRIMARY KEY (metric, team_id, model, provider, detail, bucket)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE audit ADD COLUMN traceparent TEXT;
    ALTER TABLE audit ADD COLUMN steps_us TEXT NOT NULL DEFAULT '';
    ALTER TABLE audit ADD COLUMN settled_at REAL;
    CREATE TABLE mark (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO mark SELECT 'traces', coalesce(max(id), 0) FROM audit;
    INSERT INTO mark SELECT 'began_at_s', CAST(coalesce(min(received_at), unixepoch()) AS INTEGER) FROM audit;
    """,
    """
    ALTER TABLE audit ADD COLUMN cache TEXT NOT NULL DEFAULT 'bypass';
    ALTER TABLE audit ADD COLUMN saved_tokens INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE audit ADD COLUMN saved_nano_usd INTEGER DEFAULT 0;
    """,
    """
    CREATE TABLE reason (
        team_id TEXT NOT NULL,
        reason TEXT NOT NULL,
        requests INTEGER NOT NULL,
        PRIMARY KEY (team_id, reason)
    ) WITHOUT ROWID;
    INSERT INTO reason SELECT team_id, error_code, count(*) FROM audit
        WHERE status = 'refused' AND error_code IS NOT NULL OR error_code = 'unreconciled' GROUP BY team_id, error_code;
    """,
    """
    ALTER TABLE attempt ADD COLUMN model TEXT NOT NULL DEFAULT '';
    ALTER TABLE attempt ADD COLUMN stream INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE attempt ADD COLUMN retry_after_s REAL;
    ALTER TABLE audit ADD COLUMN outrun_tokens INTEGER NOT NULL DEFAULT 0;
    """,
    """
    CREATE TABLE routed (
        bucket_s INTEGER NOT NULL,
        team_id TEXT NOT NULL,
        auto INTEGER NOT NULL,
        decision TEXT NOT NULL,
        model TEXT NOT NULL,
        requests INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        cost_nano_usd INTEGER NOT NULL,
        PRIMARY KEY (bucket_s, team_id, auto, decision, model)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE attempted (
        provider TEXT NOT NULL,
        model TEXT NOT NULL,
        result TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        PRIMARY KEY (provider, model, result)
    ) WITHOUT ROWID;
    INSERT INTO attempted
        SELECT provider, model, iif(status IN (401, 403), 'credential_refused', verdict), count(*)
        FROM attempt GROUP BY 1, 2, 3;
    """,
    """
    DROP INDEX attempt_provider_verdict_at;
    CREATE INDEX attempt_at ON attempt (at);
    """,
    """
    CREATE TABLE content (
        request_id TEXT PRIMARY KEY,
        input_messages TEXT NOT NULL,
        output_messages TEXT NOT NULL
    ) WITHOUT ROWID;
    """,
)


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
        # A row made of a hold alone gives way to the request's own, which is late but knows what was used.
        stale = _stale(connection, [row.request_id for row in batch.requests if row.error_code != UNRECONCILED])
        added = [(row, _added(connection, _statement(row, stale), row)) for row in batch.requests]
        new = [row for row, number in added if number]
        tried = [row for row in batch.attempts if _added(connection, _INSERT_ATTEMPT, row)]
        for table in sums.TABLES:
            connection.executemany(_ADD[table.name], [*table.added(new), *table.added(stale.values(), -1)])
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


def _stale(connection: Connection, request_ids: Sequence[str]) -> dict[str, AuditRow]:
    """The unreconciled rows of these requests."""
    names = ", ".join(AuditRow.__struct_fields__)
    found = connection.execute(
        f"SELECT {names} FROM audit WHERE error_code = ? AND request_id IN (SELECT value FROM json_each(?))",  # noqa: S608
        (UNRECONCILED, msgspec.json.encode(request_ids).decode()),
    )
    return {row.request_id: row for row in map(audit_row, found)}


def _statement(row: AuditRow, stale: Mapping[str, AuditRow]) -> str:
    if row.error_code == UNRECONCILED:
        return _INSERT_CHARGED
    return _REPLACE_AUDIT if row.request_id in stale else _INSERT_AUDIT


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
