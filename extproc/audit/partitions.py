"""Partitions of PostgreSQL's tables: made when a row needs one, dropped whole when all in it is too old.

In: times of rows, the length of a partition. Out: tables such as `audit_20261123_20261130`, named after the days (UTC)
that they begin and end with, the end excluded. The names are what tells which there are, so a length that is changed
later holds for what comes: a new partition begins and ends where its neighbours do.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import msgspec
from sqlalchemy import Connection, text

Length = Literal["day", "week", "month"]
Period = tuple[datetime, datetime]  # from, to: midnights in UTC

_NAME: Final = re.compile(r"_(\d{8})_(\d{8})")
_CHILDREN: Final = text(
    "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid"
    " WHERE inhparent = CAST(:table AS regclass)"
)


class Partition(msgspec.Struct, frozen=True):
    """One that there is."""

    name: str
    begin_s: float
    end_s: float


def period(at_s: float, length: Length) -> Period:
    """The day, the week (from Monday) or the month that `at_s` lies in."""
    day = datetime.fromtimestamp(at_s, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if length == "day":
        return day, day + timedelta(days=1)
    if length == "week":
        monday = day - timedelta(days=day.weekday())
        return monday, monday + timedelta(days=7)
    first = day.replace(day=1)
    return first, (first + timedelta(days=32)).replace(day=1)


def existing(connection: Connection, table: str) -> list[Partition]:
    """The partitions of `table`."""
    names = connection.execute(_CHILDREN, {"table": table}).scalars()
    return [
        Partition(name, _midnight_s(found[1]), _midnight_s(found[2]))
        for name in names
        if (found := _NAME.fullmatch(name.removeprefix(table)))
    ]


def ensure(connection: Connection, table: str, times_s: Iterable[float], length: Length) -> None:
    """Make the partitions that rows of `times_s` need. The caller holds the lock."""
    there = existing(connection, table)
    for at_s in times_s:
        if any(each.begin_s <= at_s < each.end_s for each in there):
            continue
        begin, end = between(period(at_s, length), at_s, there)
        name = f"{table}_{begin:%Y%m%d}_{end:%Y%m%d}"
        connection.exec_driver_sql(
            f"CREATE TABLE {name} PARTITION OF {table}"
            f" FOR VALUES FROM ({begin.timestamp():.0f}) TO ({end.timestamp():.0f})"
        )
        there.append(Partition(name, begin.timestamp(), end.timestamp()))


def between(wanted: Period, at_s: float, there: Sequence[Partition]) -> Period:
    """As much of `wanted` around `at_s` as the others leave."""
    begin_s = max([wanted[0].timestamp(), *(each.end_s for each in there if each.end_s <= at_s)])
    end_s = min([wanted[1].timestamp(), *(each.begin_s for each in there if each.begin_s > at_s)])
    return datetime.fromtimestamp(begin_s, UTC), datetime.fromtimestamp(end_s, UTC)


def drop(connection: Connection, table: str, before_s: float) -> list[str]:
    """Drop the partitions that end before. The caller holds the lock. Returns their names."""
    old = [each.name for each in existing(connection, table) if each.end_s <= before_s]
    for name in old:
        connection.exec_driver_sql(f"DROP TABLE {name}")
    return old


def _midnight_s(day: str) -> float:
    return datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC).timestamp()
