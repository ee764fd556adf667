"""Reading the journal, off the event loop and in bounded time.

In: a query, as a function of a connection. Out: what it returns, or AuditUnavailable. Connections are read-only, one
per thread; a reader never waits for the settler nor holds it up (SQLite's WAL).
"""

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from extproc.errors import AuditUnavailable

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_OPCODES_BETWEEN_CHECKS = 10_000


class Store:
    """The journal at `path`, to read. A query may take `limit_s`; as many as `threads` run at once."""

    def __init__(self, path: Path, *, limit_s: float = 5.0, threads: int = 2) -> None:
        self._uri = f"{path.absolute().as_uri()}?mode=ro"
        self._limit_s = limit_s
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="journal")
        self._local = threading.local()

    async def read(self, query: Callable[[sqlite3.Connection], _T]) -> _T:
        """What `query` returns. Raises AuditUnavailable: no journal yet, not readable, or not done in time."""
        deadline = time.monotonic() + self._limit_s
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._read, query, deadline)

    def _read(self, query: Callable[[sqlite3.Connection], _T], deadline: float) -> _T:
        # The time counts from the call, so that waiting for a thread is bounded too.
        try:
            connection = self._connection()
            connection.set_progress_handler(lambda: time.monotonic() > deadline, _OPCODES_BETWEEN_CHECKS)
            if time.monotonic() > deadline:
                raise sqlite3.OperationalError("interrupted")
            return query(connection)
        except sqlite3.Error as error:
            if str(error) == "interrupted":
                raise AuditUnavailable("This took too long; ask for less, such as a later `since`.") from None
            self._forget()
            log.warning("journal cannot be read", extra={"reason": str(error)})
            raise AuditUnavailable("The audit store cannot be read at the moment.") from None

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._uri, uri=True, isolation_level=None, timeout=1.0)
            self._local.connection = connection
        return connection

    def _forget(self) -> None:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            self._local.connection = None
            connection.close()

    def close(self) -> None:
        """Let running queries end; start no more."""
        self._executor.shutdown(wait=True, cancel_futures=True)
