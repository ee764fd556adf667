"""Team keys over HTTP on a real Valkey: made, listed, rotated, revoked; never told twice, never stored."""

import json
from typing import Any

import pytest

from control.keyring import digest_of, id_of
from extproc.snapshot import shared
from tests.budget.conftest import valkey
from tests.control.teams import NOW_S, Control, control

__all__ = ["control", "valkey"]

KEYS = "/v1/teams/a/keys"


async def make(control: Control, **wish: Any) -> dict[str, Any]:
    status, body = await control.call("POST", KEYS, wish)
    assert status == 201
    made: dict[str, Any] = body
    return made


async def keys(control: Control) -> list[dict[str, Any]]:
    _, body = await control.call("GET", KEYS)
    listed: list[dict[str, Any]] = body["keys"]
    return listed


async def owner(control: Control, key: str) -> str | None:
    """The team whose key this is, in the catalog that workers go by; None: refused."""
    team = control.current.snapshot.catalog.teams.get(digest_of(key))
    return team.id if team else None


async def test_a_key_is_good_at_once_and_told_once(control: Control) -> None:
    made = await make(control, name="ci", expires_in="90d")
    assert made["key"].startswith("gwk_")
    assert (made["last_four"], made["key_id"]) == (made["key"][-4:], id_of(digest_of(made["key"])))
    assert (made["name"], made["status"], made["source"]) == ("ci", "active", "api")
    assert (made["created_at"], made["expires_at"]) == ("2031-02-27T12:00:00.000Z", "2031-05-28T12:00:00.000Z")
    assert await owner(control, made["key"]) == "a"
    listed = await keys(control)
    assert listed[1] == {name: value for name, value in made.items() if name not in ("key", "replaces")}


async def test_the_key_is_in_neither_state_nor_log(control: Control) -> None:
    made = await make(control)
    rotated = (await control.call("POST", f"{KEYS}/{made['key_id']}/rotate"))[1]
    stored = json.dumps([str(await control.client.execute_command("HGETALL", shared.KEY)), await control.log()])
    for key in (made["key"], rotated["key"]):
        assert key not in stored
        assert digest_of(key) in stored


async def test_rotated_both_hold_for_the_overlap(control: Control) -> None:
    old = await make(control, name="ci")
    status, new = await control.call("POST", f"{KEYS}/{old['key_id']}/rotate", {"overlap": "1h", "expires_in": 7200})
    assert status == 201
    assert (new["name"], new["replaces"]["key_id"]) == ("ci", old["key_id"])
    assert (new["replaces"]["status"], new["replaces"]["expires_at"]) == ("active", "2031-02-27T13:00:00.000Z")
    assert [await owner(control, each["key"]) for each in (old, new)] == ["a", "a"]
    for passed_s, owners in ((3600, [None, "a"]), (7200, [None, None])):
        control.now_s = NOW_S + passed_s
        await control.refresher.step()
        assert [await owner(control, each["key"]) for each in (old, new)] == owners
    assert [key["status"] for key in await keys(control)] == ["active", "revoked", "expired"]
    status, body = await control.call("POST", f"{KEYS}/{old['key_id']}/rotate")
    assert (status, body["error"]["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("made_for", "wish", "expires_at"),
    [
        ("90d", {}, "2031-06-07T12:00:00.000Z"),  # as long as the old one, from the rotation on
        ("90d", {"expires_in": "1d"}, "2031-03-10T12:00:00.000Z"),
        ("90d", {"expires_in": None}, None),
        (None, {}, None),
    ],
)
async def test_a_rotated_key_holds_as_long_as_the_old_one_was_made_for(
    control: Control, made_for: str | None, wish: dict[str, Any], expires_at: str | None
) -> None:
    old = await make(control, expires_in=made_for)
    control.now_s = NOW_S + 10 * 86_400
    _, new = await control.call("POST", f"{KEYS}/{old['key_id']}/rotate", wish)
    assert new["expires_at"] == expires_at
    _, newer = await control.call("POST", f"{KEYS}/{new['key_id']}/rotate", {})
    assert newer["expires_at"] == expires_at
    if made_for:
        assert new["replaces"]["expires_at"] < old["expires_at"]


async def test_one_of_the_file_is_rotated_and_revoked_like_any(control: Control) -> None:
    (key,) = await keys(control)
    assert (key["source"], key["key_id"]) == ("file", id_of(digest_of("sk-a")))
    status, new = await control.call("POST", f"{KEYS}/{key['key_id']}/rotate", {"overlap": "0s"})
    assert status == 201
    assert (await owner(control, "sk-a"), await owner(control, new["key"])) == (None, "a")
    status, _ = await control.call("GET", "/v1/teams/a/usage", who="team")
    assert status == 401


async def test_revoked_and_revoked_again(control: Control) -> None:
    made = await make(control)
    for _ in range(2):
        status, body = await control.call("DELETE", f"{KEYS}/{made['key_id']}")
        assert (status, body["status"]) == (200, "revoked")
        assert "key" not in body
    assert await owner(control, made["key"]) is None


async def test_every_change_is_logged_with_who_and_which_key(control: Control) -> None:
    made = await make(control, name="ci")
    new = (await control.call("POST", f"{KEYS}/{made['key_id']}/rotate", who="other admin"))[1]
    await control.call("DELETE", f"{KEYS}/{new['key_id']}")
    revoke, rotate, create = await control.log()
    assert [entry["action"] for entry in (create, rotate, revoke)] == ["key.create", "key.rotate", "key.revoke"]
    assert (create["key"]["key_id"], create["key"]["name"], create["team_id"]) == (made["key_id"], "ci", "a")
    assert (rotate["replaces"]["key_id"], rotate["key"]["key_id"]) == (made["key_id"], new["key_id"])
    assert create["who"] == revoke["who"] != rotate["who"]
    assert create["who"].removeprefix("sha256:") == id_of(digest_of("sk-admin"))


async def test_a_made_team_lives_by_made_keys(control: Control) -> None:
    await control.call("POST", "/v1/teams", {"id": "c"})
    status, made = await control.call("POST", "/v1/teams/c/keys", {})
    assert (status, await owner(control, made["key"])) == (201, "c")
    await control.call("DELETE", "/v1/teams/c")
    assert await owner(control, made["key"]) is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": 5}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"expires_in": "soon"}, "expires_in"),
        ({"expires_in": -1}, "expires_in"),
        ({"expires_in": "9" * 400 + "d"}, "expires_in"),
        ({"expires_in": True}, "expires_in"),
        ({"key": "gwk_mine"}, "key"),
        ([], None),
    ],
)
async def test_what_is_wrong_is_named(control: Control, body: Any, param: str | None) -> None:
    status, answer = await control.call("POST", KEYS, body)
    assert (status, answer["error"]["param"]) == (400, param)
    assert len(await keys(control)) == 1


@pytest.mark.parametrize(("method", "path"), [("DELETE", f"{KEYS}/0"), ("POST", f"{KEYS}/0/rotate")])
async def test_a_key_that_is_not_there(control: Control, method: str, path: str) -> None:
    status, body = await control.call(method, path)
    assert (status, body["error"]["param"]) == (404, "key_id")
