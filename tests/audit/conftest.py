"""One PostgreSQL a file, one database a test."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from extproc.audit.database import to_write
from extproc.audit.migrations import migrate
from extproc.settings.audit import Audit
from tests.audit.postgres import Postgres, postgres
from tests.audit.stores import store

__all__ = ["postgres", "store"]


@pytest.fixture
def audit_settings(postgres: Postgres) -> Audit:
    return Audit(url=postgres.database())


@pytest.fixture
def database(audit_settings: Audit) -> Iterator[Engine]:
    """With its tables."""
    engine = to_write(audit_settings)
    with engine.begin() as connection:
        migrate(connection)
    yield engine
    engine.dispose()
