"""The audit store as SQLAlchemy sees it: one description of its tables for both databases.

In: the rows' and sums' own types. Out: tables to query, the same columns in the journal (SQLite) and in PostgreSQL;
what makes them is in `settle.journal` and `audit.migrations`, and tests hold that all three agree. `sums` and `routed`
have no row of everything since the beginning (EVER) in PostgreSQL: metrics are each replica's own, from its journal.
"""

import types
import typing
from typing import Any, Final

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, Double, MetaData, Row, Table, Text
from sqlalchemy.types import TypeEngine

from extproc.settle import sums
from extproc.settle.rows import AttemptRow, AuditRow

METADATA: Final = MetaData()
_TYPES: Final[dict[type, type[TypeEngine[Any]]]] = {bool: Boolean, int: BigInteger, float: Double, str: Text}
# Of sums, whose columns are named in tuples; all others are texts when they are keys, and counts when they are not.
_OF_SUMS: Final[dict[str, type[TypeEngine[Any]]]] = {"bucket_s": BigInteger, "auto": Boolean, "latency_ms": Double}


def _of_rows(name: str, kind: type[msgspec.Struct], keys: tuple[str, ...]) -> Table:
    fields = msgspec.structs.fields(kind)
    return Table(
        name,
        METADATA,
        *(Column(field.name, _type(field.type), primary_key=field.name in keys) for field in fields),
    )


def _type(annotation: Any) -> TypeEngine[Any]:
    """`int | None` -> BigInteger; a Literal is a text."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        annotation = next(arg for arg in typing.get_args(annotation) if arg is not type(None))
    return _TYPES.get(annotation, Text)()


def _of_sums(table: sums.Table[AuditRow]) -> Table:
    return Table(
        table.name,
        METADATA,
        *(Column(name, _OF_SUMS.get(name, Text)(), primary_key=True) for name in table.keys),
        *(Column(name, _OF_SUMS.get(name, BigInteger)(), nullable=False) for name in table.summed),
    )


AUDIT: Final = _of_rows("audit", AuditRow, ("request_id", "received_at"))
ATTEMPT: Final = _of_rows("attempt", AttemptRow, ("request_id", "started_at", "provider", "at"))
# The sums that are kept by time, and so can be added up over replicas.
SUMMED: Final = {table: _of_sums(table) for table in sums.TABLES if "bucket_s" in table.keys}
SUMS, ROUTED = SUMMED.values()


def audit_row(found: Row[Any]) -> AuditRow:
    """A row of AUDIT."""
    return AuditRow(**found._mapping)


def attempt_row(found: Row[Any]) -> AttemptRow:
    """A row of ATTEMPT."""
    return AttemptRow(**found._mapping)
