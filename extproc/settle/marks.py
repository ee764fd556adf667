"""Marks: how far those who read the journal have come, and their counters, in the journal itself.

In: a reader's name, the id of the last row it is done with. Out: the same again, after any crash.
"""

from collections.abc import Mapping

from extproc.settle.journal import Connection, transaction


def mark(connection: Connection, name: str) -> int:
    """The id of the last row that reader `name` is done with; 0: of none. Raises NOT_NOW."""
    found = connection.execute("SELECT value FROM mark WHERE name = ?", (name,)).fetchone()
    return int(found[0]) if found else 0


def advance(connection: Connection, marks: Mapping[str, int], counts: Mapping[str, int] | None = None) -> None:
    """Set marks, and add to the journal's counters, all or nothing. Raises NOT_NOW."""
    with transaction(connection):
        connection.executemany(
            "INSERT INTO mark VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", marks.items()
        )
        connection.executemany(
            "INSERT INTO counter VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
            (counts or {}).items(),
        )
