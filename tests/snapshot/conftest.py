"""A real Valkey, as the ledger's tests have it."""

from tests.budget.conftest import valkey

__all__ = ["valkey"]
