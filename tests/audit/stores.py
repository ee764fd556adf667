"""An audit store of either kind, to write to and to query: what reads one must read the other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from extproc.audit.database import to_read, to_write
from extproc.audit.migrations import migrate
from extproc.audit.write import write as write_shared
from extproc.settings.audit import Audit
from extproc.settle import journal
from extproc.settle.journal import Batch
from tests.audit.postgres import Postgres


class Kept:
    """`connection`: as the control API has it."""

    def __init__(self, audit: Audit, path: Path) -> None:
        self.audit = audit
        self.journal = path
        journal.connect(path).close()
        self._writing = to_write(audit) if audit.shared else None
        if self._writing is not None:
            with self._writing.begin() as connection:
                migrate(connection)
        self._reading = to_read(audit, path, 1)
        self.connection: Connection = self._reading.connect()

    def write(self, batch: Batch) -> None:
        self.connection.rollback()
        if self._writing is None:
            connection = journal.connect(self.journal)
            journal.write(connection, batch)
            connection.close()
        else:
            with self._writing.begin() as shared:
                write_shared(shared, batch.requests, batch.attempts, "week")

    def close(self) -> None:
        self.connection.close()
        for engine in (self._reading, self._writing):
            if engine is not None:
                engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    audit = Audit()
    if request.param == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        audit = Audit(url=postgres.database())
    kept = Kept(audit, tmp_path / "journal.db")
    yield kept
    kept.close()
