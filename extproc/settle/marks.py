"""Marks: how far those who read the journal have come, and their counters, in the journal itself.

In: a reader's name, the id of the last row it is done with. Out: the same again, after any crash.
"""

from collections.abc import Collection, Mapping

from extproc.settle.journal import Connection, transaction


def mark(connection: Connection, name: str) -> int:
    """The id of the last row that reader `name` is done with; 0: of none. Raises NOT_NOW."""
    found = connection.execute("SELECT value FROM mark WHERE name = ?", (name,)).fetchone()
    return int(found[0]) if found else 0


def advance(
    connection: Connection,
    marks: Mapping[str, int],
    counts: Mapping[str, int] | None = None,
    *,
    since: Mapping[str, int] | None = None,
) -> None:
    """Set marks, and add to the journal's counters, all or nothing. A mark that is no longer where it was in `since` is
    left alone: somebody has put it back meanwhile. Raises NOT_NOW."""
    before = since or {}
    with transaction(connection):
        connection.executemany(
            "INSERT INTO mark VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2 WHERE ?3 IS NULL OR value = ?3",
            [(name, value, before.get(name)) for name, value in marks.items()],
        )
        connection.executemany(
            "INSERT INTO counter VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
            (counts or {}).items(),
        )


def put_back(connection: Connection, names: Collection[str]) -> None:
    """Have all that is there read again. Raises NOT_NOW."""
    with transaction(connection):
        connection.executemany("UPDATE mark SET value = 0 WHERE name = ?", [(name,) for name in names])
