"""A real Valkey, shared with the ledger's tests; each test has a partition of its own."""

from tests.budget.conftest import valkey

__all__ = ["valkey"]
