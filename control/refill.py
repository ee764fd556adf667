"""A restored audit database lacks what was copied since its backup: the journal copies all that it still has once more.

In: the data directory of a gateway, which may run. Out: how many requests will be copied, by its settler, within half a
second or at its next start. Called by `gateway refill`, on each replica.
"""

from extproc import runtime
from extproc.audit.shipper import again
from extproc.paths import Paths
from extproc.settle.journal import NOT_NOW, connect


class RefillError(Exception):
    """There is nothing to be copied, or nowhere to. One line."""


def refill(paths: Paths) -> tuple[int, str]:
    """Requests, and the database. Raises RefillError."""
    try:
        audit = runtime.read(paths.runtime).audit
        if not audit.shared:
            raise RefillError("audit.url names no database: rows are in the journal alone")
        journal = connect(paths.journal)
        try:
            return again(journal, audit), audit.place
        finally:
            journal.close()
    except NOT_NOW as error:
        raise RefillError(f"no gateway has run on data_dir {paths.data_dir}, or it cannot be used: {error}") from None
