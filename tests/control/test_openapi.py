"""The document: well formed, of all that is served and nothing else, and as the gateway answers (conformity.py)."""

from pathlib import Path

import openapi_spec_validator
import pytest

from control.openapi.document import document
from control.openapi.operations import CONTROL, OPERATIONS
from tests.budget.conftest import valkey
from tests.control.conformity import conforms
from tests.control.teams import Control, control

__all__ = ["control", "valkey"]


def test_it_is_valid() -> None:
    openapi_spec_validator.validate(document())


def test_it_has_every_route_and_no_other(tmp_path: Path) -> None:
    """A new route needs a line in control/openapi/operations.py: who may use it, what it takes, what it answers."""
    served = {(route.method, route.path) for route in Control(tmp_path, "unix:///nonexistent/v.sock").routes}
    assert {(operation.method, operation.path) for operation in CONTROL} == served


def test_operations_have_names_of_their_own() -> None:
    assert len({operation.id for operation in OPERATIONS}) == len(OPERATIONS)


@pytest.mark.parametrize("body", [{}, {"role": "admin"}, {"role": "admin", "team_id": None, "key": "x"}])
def test_a_field_missing_or_not_in_the_document_is_seen(body: dict[str, object]) -> None:
    conforms("GET", "/v1/me", 200, {"role": "admin", "team_id": None})
    with pytest.raises(AssertionError):
        conforms("GET", "/v1/me", 200, body)


async def test_it_is_served_to_everybody(control: Control) -> None:
    assert await control.call("GET", "/openapi.json", who="none") == (200, document())
