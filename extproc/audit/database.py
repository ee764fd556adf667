"""Connections to the audit database: the journal's SQLite file to read, or PostgreSQL to read and to write.

In: `audit` of gateway.yaml. Out: SQLAlchemy engines, which open connections when they are first used. Whatever is said
about a failure is said by `reason`, which holds no password.
"""

import sqlite3
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Engine, QueuePool, create_engine, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from extproc.settings.audit import Audit

AWAY: Final = (DBAPIError, PoolTimeoutError, OSError)  # what a database that cannot be used raises
_SQLITE_BUSY_S: Final = 1.0
# A server that vanished without a word is noticed: libpq, "Parameter Key Words".
_PATIENCE: Final = {
    "connect_timeout": 5,  # seconds
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # ms
}


def url_of(audit: Audit) -> URL:
    """As SQLAlchemy wants it. Raises SQLAlchemyError."""
    return make_url(audit.url).set(drivername="postgresql+psycopg")


def to_write(audit: Audit) -> Engine:
    """PostgreSQL, one connection."""
    return _postgresql(audit, 1)


def to_read(audit: Audit, journal: Path, connections: int) -> Engine:
    """Wherever the rows are, to read only, by at most so many connections."""
    if audit.shared:
        return _postgresql(audit, connections).execution_options(postgresql_readonly=True)
    return journal_engine(journal, connections)


def journal_engine(journal: Path, connections: int) -> Engine:
    """The journal, to read only; never waits for the settler nor holds it up (SQLite's WAL)."""
    uri = f"{journal.absolute().as_uri()}?mode=ro"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_SQLITE_BUSY_S)

    return create_engine("sqlite://", creator=connect, poolclass=QueuePool, pool_size=connections, max_overflow=0)


def _postgresql(audit: Audit, connections: int) -> Engine:
    url = url_of(audit)
    return create_engine(
        url,
        # What the URL says itself goes before. No prepared statements: poolers (PgBouncer) may lie between.
        connect_args={
            **{name: value for name, value in _PATIENCE.items() if name not in url.query},
            **({} if "application_name" in url.query else {"application_name": "llm-gateway"}),
            "prepare_threshold": None,
        },
        pool_size=connections,
        max_overflow=0,
        pool_pre_ping=True,  # a database that was away and is back costs no error
        pool_recycle=300,
        hide_parameters=True,
    )


def reason(error: BaseException, audit: Audit) -> str:
    """The first line of what the driver says, for a log; never the password."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    said = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
    return _without_secrets(said, audit)


def _without_secrets(said: str, audit: Audit) -> str:
    try:
        url = url_of(audit)
    except SQLAlchemyError:
        return "the address cannot be read"
    secrets = [url.password, *(value for name, value in url.query.items() if "password" in name)]
    for secret in (str(secret) for secret in secrets if secret):
        said = said.replace(secret, "***")
    return said
