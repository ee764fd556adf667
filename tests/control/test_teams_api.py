"""Teams changed at run time, over HTTP, on a real Valkey: limits, top-ups, the log, and usage from the ledger."""

import json
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from control.app import Api, application
from control.store import Store
from extproc import runtime
from extproc.budget.ledger import Admitted
from extproc.budget.redis import RedisLedger, connect
from extproc.budget.windows import windows_at
from extproc.paths import Paths
from extproc.settings import parse
from extproc.settle.journal import Batch, write
from extproc.settle.journal import connect as connect_journal
from extproc.settle.outbox import Alert, Outbox
from extproc.snapshot import shared
from extproc.snapshot.current import Current, compile_snapshot
from extproc.snapshot.refresh import Refresher
from tests.budget.builders import reservation, settlement
from tests.budget.conftest import Valkey, valkey
from tests.control.conformity import conforms
from tests.settle.builders import audit

__all__ = ["valkey"]

NOW_S = datetime(2031, 2, 27, 12, 0, tzinfo=UTC).timestamp()
NOW_MS = round(NOW_S * 1000)
KEYS = {"admin": "sk-admin", "other admin": "sk-boss", "team": "sk-a", "unknown": "sk-wrong", "none": None}
SETTINGS = """
admin: {keys: [sk-admin, sk-boss]}
providers:
  openai: {format: openai, base_url: "http://127.0.0.1:9"}
  anthropic: {format: anthropic, base_url: "http://127.0.0.1:9"}
models: [{name: gpt, provider: openai}, {name: claude, provider: anthropic}]
teams:
  - id: a
    keys: [sk-a]
    budget: {daily_tokens: 1000, monthly_usd: 2}
    auto_downgrade: true
    alert: {threshold_pct: [50, 80], secret: hook-secret}
  - {id: b, keys: [sk-b]}
"""
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
TOPUP = {"window": "daily", "unit": "tokens", "amount": 500}


class Control:
    """A control API; another one on the same state is another replica."""

    def __init__(self, folder: Path, state_url: str) -> None:
        self.paths = Paths.of(folder)
        runtime.write(parse(SETTINGS, {}), self.paths.runtime)
        connect_journal(self.paths.journal).close()
        self.client = connect(state_url, timeout_s=5)
        self.ledger = RedisLedger(self.client)
        self.current = Current(compile_snapshot(runtime.read(self.paths.runtime)))
        self.now_s = NOW_S
        self.refresher = Refresher(self.current, self.client, self.paths, wall_s=lambda: self.now_s)
        self._store = Store(self.paths.journal)
        api = Api(self.current, self._store, self.refresher, self.client, self.paths, wall_s=lambda: self.now_s)
        self.routes = api.routes()
        self._runner = web.AppRunner(application(api), access_log=None)

    async def __aenter__(self) -> "Control":
        await self.refresher.start()
        await self._runner.setup()
        socket = str(self.paths.data_dir / "control.sock")
        await web.UnixSite(self._runner, socket).start()
        self.http = aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()
        await self._runner.cleanup()
        await self.client.aclose()
        self._store.close()

    async def call(
        self, method: str, path: str, body: Any = None, who: str = "admin", **headers: str
    ) -> tuple[int, Any]:
        key = KEYS[who]
        headers |= {"authorization": f"Bearer {key}"} if key else {}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        url = f"http://gateway{path}"
        async with self.http.request(method, url, data=data, headers=headers, allow_redirects=False) as answer:
            text = await answer.text()
            found = json.loads(text) if answer.content_type == "application/json" else text
            conforms(method, path, answer.status, found)
            return answer.status, found

    async def top_up(self, key: str, **changes: Any) -> tuple[int, Any]:
        return await self.call("POST", "/v1/teams/a/topups", TOPUP | changes, **{"idempotency-key": key})

    async def log(self) -> list[dict[str, Any]]:
        status, body = await self.call("GET", "/v1/audit")
        assert status == 200
        entries: list[dict[str, Any]] = body["entries"]
        return entries


@pytest.fixture
async def control(valkey: Valkey) -> AsyncIterator[Control]:
    client = connect(valkey.url, timeout_s=5)
    await client.flushall()
    await client.aclose()
    with tempfile.TemporaryDirectory(prefix="control-") as folder:
        async with Control(Path(folder), valkey.url) as control:
            yield control


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
            ({"auto_downgrade": "maybe"}, "auto_downgrade"),
            ({"alert": {"webhook": "ftp://x"}}, "alert.webhook"),
            ({"models": "gpt"}, "models"),
            ({"keys": ["sk-x"]}, "keys"),
            ({"id": "c"}, "id"),
            ({"budgets": {}}, "budgets"),
            ([], None),
            (b"{", None),
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
        status, body = await control.call("GET", "/v1/audit?cursor=x")
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
            ({"id": "a/b"}, "id"),
            ({"id": "x" * 101}, "id"),
            ({"id": "c", "keys": ["sk-mine"]}, "keys"),
            ({"id": "c", "budget": {"daily_token": 1}}, "budget.daily_token"),
        ],
    )
    async def test_what_is_wrong_is_named(self, control: Control, body: Any, param: str) -> None:
        status, answer = await control.call("POST", "/v1/teams", body)
        assert (status, answer["error"]["param"]) == (400, param)
        assert await control.log() == []


class TestTopUp:
    async def test_it_is_granted_once_for_each_key(self, control: Control) -> None:
        status, body = await control.top_up("k1")
        assert status == 200
        assert body == {"team_id": "a", **TOPUP, "window_id": "2031-02-27", "repeated": False}
        _, again = await control.top_up("k1")
        assert again == body | {"repeated": True}
        await control.top_up("k2", amount=1)
        _, shown = await control.call("GET", "/v1/teams/a")
        assert shown["topups"]["daily"] == {"tokens": 501, "usd": 0.0}
        assert [entry["topup"]["amount"] for entry in await control.log()] == [1, 500]

    async def test_a_repetition_after_midnight_grants_nothing_more(self, control: Control) -> None:
        await control.top_up("k1")
        control.now_s += 86_400
        _, body = await control.top_up("k1")
        assert (body["window_id"], body["repeated"]) == ("2031-02-27", True)
        _, shown = await control.call("GET", "/v1/teams/a")
        assert shown["topups"]["daily"]["tokens"] == 0

    async def test_usd(self, control: Control) -> None:
        await control.top_up("k", window="monthly", unit="usd", amount=0.25)
        _, body = await control.call("GET", "/v1/teams/a/usage")
        assert (body["monthly"]["limit_usd"], body["monthly"]["topup_usd"]) == (2.25, 0.25)

    @pytest.mark.parametrize(
        ("changes", "param"),
        [
            ({"amount": 0}, "amount"),
            ({"amount": -5}, "amount"),
            ({"amount": 1.5}, "amount"),
            ({"amount": 1e30, "unit": "usd", "window": "monthly"}, "amount"),
            ({"amount": "many"}, "amount"),
            ({"window": "weekly"}, "window"),
            ({"window": "monthly"}, "window"),  # no monthly limit in tokens to add to
            ({"unit": "eur"}, "unit"),
            ({"note": "x"}, "note"),
        ],
    )
    async def test_what_is_wrong_is_named(self, control: Control, changes: dict[str, Any], param: str) -> None:
        status, body = await control.top_up("k", **changes)
        assert (status, body["error"]["param"]) == (400, param)
        assert await control.log() == []

    async def test_what_is_missing_is_named(self, control: Control) -> None:
        status, body = await control.call("POST", "/v1/teams/a/topups", {"unit": "usd", "amount": 1})
        assert (status, body["error"]["param"]) == (400, "window")
        status, body = await control.call("POST", "/v1/teams/a/topups", TOPUP)
        assert (status, body["error"]["param"]) == (400, "idempotency-key")

    async def test_one_key_for_two_top_ups_is_a_mistake(self, control: Control) -> None:
        await control.top_up("k")
        status, body = await control.top_up("k", amount=6)
        assert (status, body["error"]["param"]) == (400, "idempotency-key")

    async def test_it_is_room(self, control: Control) -> None:
        """1000 a day, 900 of them used: 300 fit only after a top-up."""
        windows = windows_at(NOW_MS)
        await control.ledger.settle(settlement("a", "h0", 900, windows=windows))
        ask = {"now_ms": NOW_MS, "daily_tokens": 1000, "input_tokens": 200, "output_tokens": 100}
        assert not isinstance(await control.ledger.reserve(reservation("a", "h1", **ask)), Admitted)
        await control.top_up("k")
        assert isinstance(await control.ledger.reserve(reservation("a", "h2", **ask)), Admitted)


class TestUsage:
    async def test_from_the_ledger(self, control: Control) -> None:
        windows = windows_at(NOW_MS)
        await control.ledger.settle(settlement("a", "h0", 600, 1_500_000_000, windows=windows))
        await control.ledger.settle(settlement("a", "h1", 10, None, windows=windows))
        await control.ledger.reserve(reservation("a", "h2", now_ms=NOW_MS))
        await control.top_up("k")
        _, body = await control.call("GET", "/v1/teams/a/usage", who="team")
        assert body["source"] == "ledger"
        daily = body["daily"]
        assert (daily["used_tokens"], daily["held_tokens"], daily["unpriced_tokens"]) == (610, 100, 10)
        assert (daily["limit_tokens"], daily["topup_tokens"]) == (1500, 500)
        assert daily["pct_used"] == pytest.approx(100 * 610 / 1500)
        assert (body["monthly"]["used_usd"], body["monthly"]["pct_used"]) == (1.5, 75.0)
        assert body["auto_downgrade_active"] is True

    async def test_all_teams(self, control: Control) -> None:
        for team in ("a", "b"):
            await control.ledger.settle(settlement(team, "h0", 100, windows=windows_at(NOW_MS)))
        _, body = await control.call("GET", "/v1/usage")
        assert (body["source"], body["daily"]["used_tokens"], body["daily"]["limit_tokens"]) == ("ledger", 200, None)
        assert body["auto_downgrade_active"] is False

    async def test_with_the_ledger_away_nothing_is_changed_and_that_is_said(self, tmp_path: Path) -> None:
        async with Control(tmp_path, "unix:///nonexistent/v.sock") as alone:
            for method, path, body in (
                ("PATCH", "/v1/teams/a", {"budget": {"daily_tokens": 5}}),
                ("POST", "/v1/teams/a/topups", TOPUP),
                ("GET", "/v1/audit", None),
            ):
                status, answer = await alone.call(method, path, body, **{"idempotency-key": "k"})
                assert (status, answer["error"]["code"]) == (503, "state_unavailable")
            _, usage = await alone.call("GET", "/v1/teams/a/usage")
            assert usage["source"] == "audit"
            _, team = await alone.call("GET", "/v1/teams/a")
            assert team["topups"] is None


class TestMetrics:
    async def metrics(self, control: Control) -> list[str]:
        async with control.http.get("http://gateway/metrics") as answer:
            return (await answer.text()).splitlines()

    async def test_budgets(self, control: Control) -> None:
        await control.ledger.settle(settlement("a", "h0", 600, 1_500_000_000, windows=windows_at(NOW_MS)))
        await control.ledger.reserve(reservation("a", "h1", now_ms=NOW_MS))
        await control.top_up("k")
        lines = await self.metrics(control)
        for line in (
            'gateway_budget_used{team="a",window="daily",unit="tokens"} 600',
            'gateway_budget_used{team="a",window="monthly",unit="usd"} 1.5',
            'gateway_budget_held{team="a",window="monthly",unit="tokens"} 100',
            'gateway_budget_limit{team="a",window="daily",unit="tokens"} 1500',
            'gateway_budget_limit{team="a",window="monthly",unit="usd"} 2',
            'gateway_budget_used{team="b",window="daily",unit="tokens"} 0',
            "gateway_ledger_up 1",
        ):
            assert line in lines
        assert not [line for line in lines if line.startswith('gateway_budget_limit{team="b"')], "b has no limit"

    async def test_what_settling_owes_and_what_was_refused(self, control: Control) -> None:
        journal = connect_journal(control.paths.journal)
        lost = audit("u", team_id="a", status="failed", error_code="unreconciled", completed_at=NOW_S)
        refused = [
            audit(name, team_id="a", status="refused", error_code=code, completed_at=NOW_S - 40)
            for name, code in (("r1", "budget_exceeded"), ("r2", "budget_exceeded"), ("r3", "rate_limit_exceeded"))
        ]
        write(journal, Batch([*refused, lost]))
        outbox = Outbox(control.paths.journal)
        outbox.charged([row.id for row in outbox.uncharged(10)][2:], [Alert("x", "a", "{}")], NOW_S)
        lines = await self.metrics(control)
        for line in (
            'gateway_refused_requests_total{team="a",reason="budget_exceeded"} 2',
            'gateway_refused_requests_total{team="a",reason="rate_limit_exceeded"} 1',
            'gateway_unreconciled_requests_total{team="a"} 1',
            'gateway_budget_alerts_total{team="a"} 1',
            "gateway_budget_alerts_waiting 1",
            "gateway_settlement_outbox 2",
            "gateway_settlement_lag_seconds 40",
        ):
            assert line in lines
        late = audit("u", team_id="a", completed_at=NOW_S)  # the request's own row came after all
        write(journal, Batch([late]))
        journal.close()
        outbox.close()
        assert 'gateway_unreconciled_requests_total{team="a"} 0' in await self.metrics(control)

    async def test_with_the_ledger_away(self, tmp_path: Path) -> None:
        async with Control(tmp_path, "unix:///nonexistent/v.sock") as alone:
            lines = await self.metrics(alone)
        assert "gateway_ledger_up 0" in lines
        assert not [line for line in lines if line.startswith("gateway_budget_used{")]


async def test_overrides_outlive_the_process(control: Control, valkey: Valkey) -> None:
    await control.call("PATCH", "/v1/teams/a", {"budget": {"daily_tokens": 5}})
    overrides = await shared.read(control.client)
    assert overrides
    assert overrides.teams["a"].changes == {"budget": {"daily_tokens": 5}}
