"""A PostgreSQL for the tests that read from either store."""

from tests.audit.postgres import postgres
from tests.audit.stores import store

__all__ = ["postgres", "store"]
