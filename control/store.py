"""Reading what was written down, off the event loop and in bounded time: the journal, and the audit database.

In: a query, as a function of a SQLAlchemy connection. Out: what it returns, or AuditUnavailable. Connections are
read-only. The journal is this gateway's own: metrics, and what settling still owes. Audit rows and sums over time are
read from the audit database: the journal too, or PostgreSQL, where all replicas' rows are.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from extproc.audit.database import AWAY, reason, to_read
from extproc.errors import AuditUnavailable
from extproc.settings.audit import Audit

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_OPCODES_BETWEEN_CHECKS = 10_000
_QUERY_CANCELED = "57014"  # PostgreSQL's error code of a statement that took too long
JOURNAL = Audit()


class Store:
    """`settings`: of the audit store now. A query may take `limit_s`; as many as `threads` run at once."""

    def __init__(
        self, journal: Path, settings: Callable[[], Audit] = lambda: JOURNAL, *, limit_s: float = 5.0, threads: int = 2
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._limit_s = limit_s
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="store")
        self._open: tuple[Audit, Engine] | None = None

    async def read(self, query: Callable[[Connection], _T]) -> _T:
        """What `query` returns. Raises AuditUnavailable: nothing there yet, not readable, or not done in time."""
        deadline = time.monotonic() + self._limit_s
        audit, engine = self._engine()
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, self._read, query, deadline, audit, engine
        )

    def _engine(self) -> tuple[Audit, Engine]:
        """As the configuration says now; a reload may name another database."""
        wanted = self._settings()
        if self._open is None or self._open[0] != wanted:
            if self._open is not None:
                self._open[1].dispose()
            self._open = wanted, to_read(wanted, self._journal, self._threads)
        return self._open

    def _read(self, query: Callable[[Connection], _T], deadline: float, audit: Audit, engine: Engine) -> _T:
        # The time counts from the call, so that waiting for a thread is bounded too.
        try:
            with engine.connect() as connection:
                _bound(connection, deadline)
                return query(connection)
        except AWAY as error:
            if _took_too_long(error):
                raise AuditUnavailable("This took too long; ask for less, such as a later `since`.") from None
            log.warning("audit store cannot be read", extra={"store": audit.place, "reason": reason(error, audit)})
            raise AuditUnavailable("The audit store cannot be read at the moment.") from None

    def close(self) -> None:
        """Let running queries end; start no more."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        if self._open is not None:
            self._open[1].dispose()


def _bound(connection: Connection, deadline: float) -> None:
    """Have the database itself give up at `deadline` (monotonic). Raises TimeoutError: it is over already."""
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    if connection.dialect.name == "sqlite":
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(lambda: time.monotonic() > deadline, _OPCODES_BETWEEN_CHECKS)
    else:
        ms = str(max(1, round(left_s * 1000)))
        connection.execute(text("SELECT set_config('statement_timeout', :ms, true)"), {"ms": ms})


def _took_too_long(error: Exception) -> bool:
    if isinstance(error, TimeoutError):
        return True
    cause = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(cause, sqlite3.OperationalError):
        return str(cause) == "interrupted"
    return getattr(cause, "sqlstate", None) == _QUERY_CANCELED
