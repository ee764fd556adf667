"""Who may do what: every endpoint of the route table, by every role."""

import time
from typing import Any

import pytest

from control import config_status
from control.config_status import Attempt, ConfigStatus
from control.openapi.operation import Operation
from control.openapi.operations import CONTROL
from tests.budget.conftest import valkey
from tests.control.teams import KEYS, TOPUP, Control, control

__all__ = ["control", "valkey"]

ROLES = ("nobody", "wrong key", "revoked key", "other team", "own team", "admin")
# What makes each succeed for whom it is meant; where it cannot, how it fails.
BODIES: dict[str, Any] = {
    "POST /v1/teams": {"id": "c"},
    "PATCH /v1/teams/{id}": {"auto_downgrade": False},
    "POST /v1/teams/{id}/topups": TOPUP,
    "DELETE /v1/cache": {"scope": "all"},
}
OTHERWISE = {"DELETE /v1/teams/{id}": 409, "GET /v1/requests/{id}": 404}  # team a is in gateway.yaml; no request is a
OWN_ONLY = {"/v1/cache/stats"}  # names no team: tells each its own


def expected(operation: Operation, role: str) -> int:
    """The status, by the operation's access alone."""
    good = OTHERWISE.get(f"{operation.method} {operation.path}", operation.status)
    if operation.access == "anyone":
        return good
    if role in ("nobody", "wrong key", "revoked key"):
        return 401
    if role == "admin" or operation.access == "any key":
        return good
    allowed = operation.access == "own team" and (role == "own team" or operation.path in OWN_ONLY)
    return good if allowed else 403


@pytest.fixture
async def keys(control: Control) -> dict[str, str | None]:
    """A key of each role; team a is one's own."""
    made = [(await control.call("POST", "/v1/teams/a/keys"))[1] for _ in range(2)]
    await control.call("DELETE", f"/v1/teams/a/keys/{made[0]['key_id']}")
    status = ConfigStatus("gateway.yaml", None, "0", time.time(), Attempt(0.0, "applied"))
    config_status.write(status, control.paths.config_status)
    return {
        "nobody": None,
        "wrong key": "sk-wrong",
        "revoked key": made[0]["key"],
        "other team": "sk-b",
        "own team": made[1]["key"],
        "admin": "sk-admin",
        "key_id": made[1]["key_id"],
    }


@pytest.mark.parametrize("operation", CONTROL, ids=lambda operation: f"{operation.method} {operation.path}")
async def test_every_endpoint_by_every_role(
    control: Control, keys: dict[str, str | None], operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "app.js" if operation.path.startswith("/ui") else "openai"
    path = operation.path.replace("{id}", "a").replace("{key_id}", str(keys["key_id"])).replace("{name}", name)
    path += "?team_id=a" if "team_id" in operation.query else ""
    body = BODIES.get(f"{operation.method} {operation.path}")
    for role in ROLES:  # the administrator last: what it changes, nobody else meets
        monkeypatch.setitem(KEYS, role, keys[role])
        before = control.current.snapshot.overrides.version
        status, answer = await control.call(operation.method, path, body, role, **{"idempotency-key": "k"})
        assert status == expected(operation, role), (role, answer)
        if operation.path in OWN_ONLY and role == "other team":
            assert [team["team_id"] for team in answer["teams"]] == ["b"]
        assert role == "admin" or control.current.snapshot.overrides.version == before
