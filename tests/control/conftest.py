"""A PostgreSQL for the tests that read from either store; where a test of the command puts its gateway.yaml."""

from pathlib import Path

import pytest

from tests.audit.postgres import postgres
from tests.audit.stores import store

__all__ = ["postgres", "store"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gateway.yaml"
