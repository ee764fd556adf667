"""Teams changed at run time, over HTTP, on a real Valkey: limits, top-ups, the log, and usage from the ledger."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest

from extproc.process.doorbell import Bell
from extproc.snapshot import shared
from tests.budget.conftest import Valkey, valkey
from tests.control.teams import TOPUP, Control, control

__all__ = ["control", "valkey"]

OF_A_TEAM = [
    ("GET", "/v1/teams/{id}"),
    ("PATCH", "/v1/teams/{id}"),
    ("DELETE", "/v1/teams/{id}"),
    ("DELETE", "/v1/teams/{id}/overrides"),
    ("POST", "/v1/teams/{id}/topups"),
    ("GET", "/v1/teams/{id}/keys"),
    ("POST", "/v1/teams/{id}/keys"),
    ("DELETE", "/v1/teams/{id}/keys/0"),
    ("POST", "/v1/teams/{id}/keys/0/rotate"),
]


@pytest.mark.parametrize(("method", "path"), OF_A_TEAM)
async def test_a_team_that_is_not_there(control: Control, method: str, path: str) -> None:
    body: dict[str, Any] = TOPUP if "topups" in path else {}
    status, answer = await control.call(method, path.replace("{id}", "nobody"), body, **{"idempotency-key": "k"})
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (404, "not_found", "id")


class TestShow:
    async def test_everything_but_keys_and_secrets(self, control: Control) -> None:
        status, body = await control.call("GET", "/v1/teams/a")
        assert status == 200
        assert body["budget"]["daily_tokens"] == 1000
        assert body["alert"] == {"threshold_pct": [50.0, 80.0], "webhook": None, "secret": "***"}
        assert body["overridden"] == []
        assert body["topups"] == {"daily": {"tokens": 0, "usd": 0.0}, "monthly": {"tokens": 0, "usd": 0.0}}
        (key,) = body["keys"]
        assert key.startswith("sha256:")
        assert len(key) == len("sha256:") + 12

    async def test_all(self, control: Control) -> None:
        _, body = await control.call("GET", "/v1/teams")
        assert [team["team_id"] for team in body["teams"]] == ["a", "b"]


class TestPatch:
    async def test_what_is_named_is_changed_and_in_force(self, control: Control) -> None:
        status, body = await control.call("PATCH", "/v1/teams/a", {"budget": {"daily_tokens": 5}, "models": ["gpt"]})
        assert status == 200
        assert (body["budget"]["daily_tokens"], body["budget"]["monthly_usd"]) == (5, 2.0)
        assert body["overridden"] == ["budget", "models"]
        team = control.current.team("a")
        assert team
        assert (team.budget.daily_tokens, team.alert.secret) == (5, "hook-secret")

    async def test_null_removes_a_limit_and_patches_add_up(self, control: Control) -> None:
        await control.call("PATCH", "/v1/teams/a", {"budget": {"daily_tokens": None}})
        _, body = await control.call("PATCH", "/v1/teams/a", {"limits": {"requests_per_minute": 7}})
        assert body["budget"]["daily_tokens"] is None
        assert body["limits"]["requests_per_minute"] == 7

    async def test_back_to_the_file(self, control: Control) -> None:
        await control.call("PATCH", "/v1/teams/a", {"budget": {"daily_tokens": None}, "auto_downgrade": False})
        status, body = await control.call("DELETE", "/v1/teams/a/overrides")
        assert (status, body["budget"]["daily_tokens"], body["auto_downgrade"]) == (200, 1000, True)
        assert body["overridden"] == []

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({"budget": {"daily_tokens": -1}}, "budget.daily_tokens"),
            ({"budget": {"daily_token": 1}}, "budget.daily_token"),
            ({"budget": {"timezone": "Nowhere"}}, "budget.timezone"),
            ({"budget": 5}, "budget"),
            ({"limits": {"requests_per_minute": "many"}}, "limits.requests_per_minute"),
            ({"limits": {"requests_per_minute": "5"}}, "limits.requests_per_minute"),
            ({"limits": {"requests_per_minute": True}}, "limits.requests_per_minute"),
            ({"limits": {"requests_per_minute": 5.0}}, "limits.requests_per_minute"),
            ({"limits": {"tokens_per_minute": 2**53}}, "limits.tokens_per_minute"),
            ({"limits": None}, "limits"),
            ({"budget": {"daily_usd": "5"}}, "budget.daily_usd"),
            ({"budget": {"daily_usd": 1e300}}, "budget.daily_usd"),
            ({"budget": {"strict": "yes"}}, "budget.strict"),
            ({"alert": {"threshold_pct": [80, "90"]}}, "alert.threshold_pct[1]"),
            ({"alert": {"threshold_pct": 500}}, "alert.threshold_pct[0]"),
            ({"routing": {"auto": {"hard": ["no-model"]}}}, "routing.auto.hard[0]"),
            ({"routing": {"target": {"save_pct": "5"}}}, "routing.target.save_pct"),
            ({"cache": {"shared": 1}}, "cache.shared"),
            ({"auto_downgrade": "true"}, "auto_downgrade"),
            ({"alert": {"webhook": "ftp://x"}}, "alert.webhook"),
            ({"models": "gpt"}, "models"),
            ({"keys": ["sk-x"]}, "keys"),
            ({"id": "c"}, "id"),
            ({"budgets": {}}, "budgets"),
            ([], None),
            (b"{", None),
            (b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}", None),
        ],
    )
    async def test_what_is_wrong_is_named_and_nothing_changes(self, control: Control, body: Any, param: str) -> None:
        status, answer = await control.call("PATCH", "/v1/teams/a", body)
        assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "invalid_request_error", param)
        assert await control.log() == []
        assert control.current.snapshot.overrides.version == 0

    async def test_each_change_is_logged_with_who_and_from_what_to_what(self, control: Control) -> None:
        await control.call("PATCH", "/v1/teams/a", {"budget": {"daily_tokens": 5}, "alert": {"secret": "new"}})
        await control.call("DELETE", "/v1/teams/a/overrides", who="other admin")
        reset, update = await control.log()
        assert update["action"] == "team.update"
        assert update["team_id"] == "a"
        assert update["before"] == {"budget.daily_tokens": 1000, "alert.secret": "***"}
        assert update["after"] == {"budget.daily_tokens": 5, "alert.secret": "***"}
        assert reset["action"] == "team.reset"
        assert reset["after"] == update["before"]
        assert update["who"].startswith("sha256:")
        assert update["who"] != reset["who"]
        assert update["at"].startswith("2031-02-27T12:00:00")

    async def test_two_replicas_changing_at_once_lose_nothing(self, control: Control, valkey: Valkey) -> None:
        with tempfile.TemporaryDirectory(prefix="control-") as folder:
            async with Control(Path(folder), valkey.url) as replica:
                for turn in range(3):
                    await control.call("PATCH", "/v1/teams/a", {"budget": {"daily_tokens": turn}})
                    await replica.call("PATCH", "/v1/teams/a", {"limits": {"requests_per_minute": turn}})
                _, body = await replica.call("GET", "/v1/teams/a")
                assert (body["budget"]["daily_tokens"], body["limits"]["requests_per_minute"]) == (2, 2)
                assert len(await control.log()) == 6

    async def test_pages_of_the_log(self, control: Control) -> None:
        for turn in range(5):
            await control.call("PATCH", "/v1/teams/a", {"budget": {"daily_tokens": turn}})
        seen, cursor = [], ""
        for _ in range(3):
            _, body = await control.call("GET", f"/v1/audit?limit=2{cursor}")
            seen += [entry["after"]["budget.daily_tokens"] for entry in body["entries"]]
            cursor = f"&cursor={body['next_cursor']}"
        assert seen == [4, 3, 2, 1, 0]
        assert body["next_cursor"] is None
        for wrong in ("x", "9" * 23):
            status, body = await control.call("GET", f"/v1/audit?cursor={wrong}")
            assert (status, body["error"]["param"]) == (400, "cursor")


class TestMade:
    """Teams that gateway.yaml does not know."""

    async def test_it_is_there_with_its_limits_and_can_be_changed_and_removed(self, control: Control) -> None:
        status, body = await control.call("POST", "/v1/teams", {"id": "c", "budget": {"daily_tokens": 7}})
        assert (status, body["team_id"], body["source"], body["keys"]) == (201, "c", "api", [])
        assert body["budget"]["daily_tokens"] == 7
        _, body = await control.call("PATCH", "/v1/teams/c", {"limits": {"requests_per_minute": 3}})
        assert (body["budget"]["daily_tokens"], body["limits"]["requests_per_minute"]) == (7, 3)
        status, body = await control.call("GET", "/v1/teams/c/usage")
        assert (status, body["daily"]["limit_tokens"]) == (200, 7)
        assert await control.call("DELETE", "/v1/teams/c") == (200, {"team_id": "c", "deleted": True})
        assert (await control.call("GET", "/v1/teams/c"))[0] == 404
        log = await control.log()
        assert [entry["action"] for entry in log] == ["team.delete", "team.update", "team.create"]
        assert log[-1]["after"] == {"budget.daily_tokens": 7}

    async def test_none_is_made_over_another(self, control: Control) -> None:
        await control.call("POST", "/v1/teams", {"id": "c"})
        for team in ("a", "c"):
            status, body = await control.call("POST", "/v1/teams", {"id": team})
            assert (status, body["error"]["code"], body["error"]["param"]) == (409, "conflict", "id")

    async def test_one_of_the_file_is_not_removed_here(self, control: Control) -> None:
        status, body = await control.call("DELETE", "/v1/teams/a")
        assert (status, body["error"]["code"]) == (409, "conflict")

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({}, "id"),
            ({"id": 5}, "id"),
            ({"id": "/a"}, "id"),
            ({"id": "x" * 101}, "id"),
            ({"id": "c", "keys": ["sk-mine"]}, "keys"),
            ({"id": "c", "budget": {"daily_token": 1}}, "budget.daily_token"),
        ],
    )
    async def test_what_is_wrong_is_named(self, control: Control, body: Any, param: str) -> None:
        status, answer = await control.call("POST", "/v1/teams", body)
        assert (status, answer["error"]["param"]) == (400, param)
        assert await control.log() == []


async def test_a_query_parameter_that_does_nothing_is_told(control: Control) -> None:
    for method, path, body in (
        ("POST", "/v1/teams", {"id": "c"}),
        ("PATCH", "/v1/teams/a", {"auto_downgrade": True}),
        ("DELETE", "/v1/teams/a/overrides", None),
        ("POST", "/v1/teams/a/topups", TOPUP),
        ("POST", "/v1/teams/a/keys", {}),
    ):
        status, answer = await control.call(method, f"{path}?dry_run=1", body, **{"idempotency-key": "k"})
        assert (status, answer["error"]["param"]) == (400, "dry_run"), path
        assert answer["error"]["message"] == "Unknown query parameter 'dry_run'; there are none here."
    assert await control.log() == []


async def test_the_workers_beside_it_are_told_at_once(control: Control) -> None:
    control.paths.sockets.mkdir(parents=True, exist_ok=True)
    bell = Bell(control.paths.bell_socket(0))
    await control.call("PATCH", "/v1/teams/a", {"budget": {"daily_tokens": 5}})
    async with asyncio.timeout(30):
        await bell.wait(1_000.0)
    bell.close()


async def test_overrides_outlive_the_process(control: Control, valkey: Valkey) -> None:
    await control.call("PATCH", "/v1/teams/a", {"budget": {"daily_tokens": 5}})
    overrides = await shared.read(control.client)
    assert overrides
    assert overrides.teams["a"].changes == {"budget": {"daily_tokens": 5}}
