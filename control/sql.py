"""What SQLite and PostgreSQL say differently, said once.

In: columns. Out: SQLAlchemy expressions that mean the same in both.
"""

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, cast, func
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction


def total(column: ColumnElement[Any]) -> ColumnElement[int]:
    """The sum of whole numbers; 0 of none. PostgreSQL's own is a decimal."""
    return cast(func.coalesce(func.sum(column), 0), BigInteger)


class whole_s(GenericFunction[int]):  # noqa: N801 - a function, as SQLAlchemy names them
    """Seconds since the epoch -> whole seconds. Casts round in PostgreSQL, and SQLite may have no floor."""

    type = BigInteger()
    inherit_cache = True


@compiles(whole_s, "sqlite")
def _sqlite(element: whole_s, compiler: SQLCompiler, **options: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **options)} AS INTEGER)"


@compiles(whole_s, "postgresql")
def _postgresql(element: whole_s, compiler: SQLCompiler, **options: Any) -> str:
    return f"CAST(floor({compiler.process(element.clauses, **options)}) AS BIGINT)"
