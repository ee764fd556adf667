"""What the journal forgets: rows that are too old, a few at a time.

In: how long rows are kept, and who copies them elsewhere. Out: fewer rows. Called by the writer between batches.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from extproc.settle.journal import Connection
from extproc.settle.marks import mark
from extproc.settle.sums import EVER

SUMS_KEPT_S: Final = 62 * 86_400  # the month's usage needs them, however short the retention
_LAST_ID: Final = 2**63 - 1


class Retention(msgspec.Struct, frozen=True):
    """`copied`: by table, the mark up to which its rows are elsewhere too; those beyond it stay."""

    seconds: float
    copied: Mapping[str, str] = {}


def delete_before(connection: Connection, now_s: float, retention: Retention, most: int) -> int:
    """Delete the oldest rows received (attempts: ended) too long ago, at most `most` of each. Returns how many.

    Oldest as written down, which is nearly the order of arrival: what is a little out of order goes a little later. The
    newest always stays, or SQLite would give its id to another row, which readers that go by ids would pass over.
    """
    before_s, deleted = now_s - retention.seconds, 0
    for table, column in (("audit", "received_at"), ("attempt", "at")):
        oldest = f"SELECT id FROM {table} WHERE id < (SELECT max(id) FROM {table}) ORDER BY id LIMIT ?"  # noqa: S608
        delete = f"DELETE FROM {table} WHERE id IN ({oldest}) AND {column} < ? AND id <= ?"  # noqa: S608
        last = mark(connection, retention.copied[table]) if table in retention.copied else _LAST_ID
        deleted += connection.execute(delete, (most, before_s, last)).rowcount
    # What was said belongs to a row; one that was never written leaves nothing to be told.
    connection.execute("DELETE FROM content WHERE request_id NOT IN (SELECT request_id FROM audit)")
    for table in ("sums", "routed"):
        old = f"bucket_s > ? AND bucket_s < ? AND bucket_s < (SELECT max(bucket_s) FROM {table}) - ?"  # noqa: S608
        connection.execute(f"DELETE FROM {table} WHERE {old}", (EVER, before_s, SUMS_KEPT_S))  # noqa: S608
    return deleted
