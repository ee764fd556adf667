"""The database that rows are copied to, in whole transactions.

In: batches of rows. Out: rows in PostgreSQL; how many of them it will never take. Made by the shipper, used by its
thread alone. Brings the schema up to date before the first batch.
"""

import logging
from collections.abc import Sequence

from sqlalchemy.exc import DataError

from extproc.audit import write as writing
from extproc.audit.database import reason, to_write
from extproc.audit.migrations import migrate
from extproc.settings.audit import Audit
from extproc.settle.rows import AttemptRow, AuditRow

log = logging.getLogger(__name__)

_NEVER_TAKEN = (DataError, ValueError, OverflowError)


class Target:
    """Raises from every method what SQLAlchemy does: later may be better."""

    def __init__(self, audit: Audit) -> None:
        self.audit = audit
        self._engine = to_write(audit)
        self._migrated = False

    @property
    def place(self) -> str:
        """What to call it in a log."""
        return self.audit.place

    def reason(self, error: BaseException) -> str:
        """Why something failed, without secrets."""
        return reason(error, self.audit)

    def write(self, requests: Sequence[AuditRow], attempts: Sequence[AttemptRow]) -> int:
        """Write rows that may be there already. Returns how many were left out because they will never be taken."""
        self._migrate()
        try:
            with self._engine.begin() as connection:
                writing.write(connection, requests, attempts, self.audit.partition)
        except _NEVER_TAKEN as error:
            if len(requests) + len(attempts) == 1:
                refused = next(row.request_id for rows in (requests, attempts) for row in rows)
                told = {"request_id": refused, "reason": self.reason(error)}
                log.error("audit database cannot take a row", extra=told)
                return 1
            return sum(self.write([row], ()) for row in requests) + sum(self.write((), [row]) for row in attempts)
        return 0

    def trim(self, now_s: float, retention_s: float) -> list[str]:
        """Drop what is too old. Returns the partitions that went."""
        self._migrate()
        with self._engine.begin() as connection:
            return writing.trim(connection, now_s, retention_s)

    def close(self) -> None:
        """Close the connection."""
        self._engine.dispose()

    def _migrate(self) -> None:
        if not self._migrated:
            with self._engine.begin() as connection:
                version = migrate(connection)
            log.info("audit database is ready", extra={"database": self.place, "schema": version})
            self._migrated = True
