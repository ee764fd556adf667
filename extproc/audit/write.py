"""Rows -> PostgreSQL, as often as it takes, each once.

In: a batch of a journal's rows, perhaps one that was written before. Out: one transaction that adds what is new, with
the sums of it. One batch at a time goes into the database, whoever it is from (an advisory lock: a batch takes
milliseconds): so two replicas that tell of the same request, one by its expired hold and one by what came of it, cannot
pass each other, and sums cannot deadlock. Same rules as the journal's own `write`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, delete, select, text
from sqlalchemy.dialects.postgresql import insert

from extproc.audit import partitions
from extproc.audit.migrations import lock
from extproc.audit.tables import ATTEMPT, AUDIT, SUMMED, audit_row
from extproc.settle import sums
from extproc.settle.rows import UNRECONCILED, AttemptRow, AuditRow
from extproc.settle.sums import EVER

_APART_S: Final = 86_400.0  # no more than that lies between a hold's own time and its request's
_SUMS_KEPT_S: Final = 62 * 86_400.0  # the month's usage needs them, however short the retention
_LOCK_MS: Final = 2_000  # for readers to let go of a partition


def write(
    connection: Connection, requests: Sequence[AuditRow], attempts: Sequence[AttemptRow], length: partitions.Length
) -> int:
    """Write what is not there yet, in the caller's transaction. Returns how many requests were new."""
    lock(connection)
    known = _known(connection, requests)
    new = {row.request_id: row for row in requests if _is_news(row, known)}
    # A row made of a hold alone gives way to the request's own, which is late but knows what was used.
    stale = _taken_out(connection, [request_id for request_id in new if request_id in known], _around(requests))
    if new:
        partitions.ensure(connection, "audit", (row.received_at for row in new.values()), length)
        connection.execute(insert(AUDIT), [_values(row) for row in new.values()])
    if attempts:
        partitions.ensure(connection, "attempt", (row.at for row in attempts), length)
        connection.execute(insert(ATTEMPT).on_conflict_do_nothing(), [_values(row) for row in attempts])
    for table in SUMMED:
        _add(connection, table, [*table.added(new.values()), *table.added(stale, -1)])
    return len(new)


def trim(connection: Connection, now_s: float, retention_s: float) -> list[str]:
    """Drop what is older than the retention, in the caller's transaction. Returns the partitions that went."""
    connection.execute(text("SELECT set_config('lock_timeout', :ms, true)"), {"ms": str(_LOCK_MS)})
    lock(connection)
    before_s = now_s - retention_s
    dropped = [name for table in ("audit", "attempt") for name in partitions.drop(connection, table, before_s)]
    for table in SUMMED.values():
        old = table.c.bucket_s < int(min(before_s, now_s - _SUMS_KEPT_S))
        connection.execute(delete(table).where(old))
    return dropped


def _is_news(row: AuditRow, known: Mapping[str, str | None]) -> bool:
    if row.request_id not in known:
        return True
    return known[row.request_id] == UNRECONCILED and row.error_code != UNRECONCILED


def _known(connection: Connection, requests: Sequence[AuditRow]) -> dict[str, str | None]:
    """Error codes of those that have a row."""
    if not requests:
        return {}
    ids = [row.request_id for row in requests]
    found = connection.execute(
        select(AUDIT.c.request_id, AUDIT.c.error_code).where(AUDIT.c.request_id.in_(ids), _around(requests))
    )
    return {row.request_id: row.error_code for row in found}


def _around(requests: Sequence[AuditRow]) -> Any:
    """The time of these rows: other partitions need not be looked at."""
    times = [row.received_at for row in requests] or [0.0]
    return AUDIT.c.received_at.between(min(times) - _APART_S, max(times) + _APART_S)


def _taken_out(connection: Connection, request_ids: Sequence[str], around: Any) -> list[AuditRow]:
    """The unreconciled rows of these requests, deleted."""
    if not request_ids:
        return []
    where = AUDIT.c.request_id.in_(request_ids), AUDIT.c.error_code == UNRECONCILED, around
    return [audit_row(found) for found in connection.execute(delete(AUDIT).where(*where).returning(AUDIT))]


def _add(connection: Connection, table: sums.Table[AuditRow], added: Iterable[tuple[object, ...]]) -> None:
    names = (*table.keys, *table.summed)
    values = [dict(zip(names, each, strict=True)) for each in added if each[0] != EVER]
    if values:
        into = SUMMED[table]
        statement = insert(into)
        more = {name: into.c[name] + statement.excluded[name] for name in table.summed}
        connection.execute(statement.on_conflict_do_update(index_elements=table.keys, set_=more), values)


def _values(row: msgspec.Struct) -> dict[str, Any]:
    """By column. PostgreSQL's texts have no NUL; SQLite's, and names that clients make up, may."""
    return {
        name: value.replace("\0", "\ufffd") if isinstance(value, str) else value
        for name, value in msgspec.structs.asdict(row).items()
    }
