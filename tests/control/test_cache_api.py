"""`/v1/cache` over HTTP, on a real Valkey: what is deleted and what is not, statistics, metrics."""

import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from control.app import Api, application
from control.store import Store
from extproc.cache.calibrate import START
from extproc.cache.counts import Batch
from extproc.cache.key import SHARED, Key, key_of
from extproc.cache.ports import Flight
from extproc.cache.redis import RedisStore
from extproc.cache.ticket import Ticket
from extproc.paths import Paths
from extproc.settings import parse
from extproc.settle.journal import connect as connect_journal
from extproc.snapshot.current import Current, compile_snapshot
from extproc.snapshot.refresh import Refresher
from extproc.state.pipe import open_state
from tests.budget.conftest import Valkey, own_valkey, valkey
from tests.cache.builders import NOW_MS, chat, entry, key, team_name
from tests.control.conformity import conforms

__all__ = ["own_valkey", "valkey"]

ROUTES = {("DELETE", "/v1/cache"), ("GET", "/v1/cache/stats")}
KEYS = {"admin": "sk-admin", "a": "sk-a", "b": "sk-b", "none": None}
HOUR_MS = 3_600_000
TTL_MS = 24 * HOUR_MS


class Control:
    """A control API on a cache of its own teams."""

    def __init__(self, folder: Path, state_url: str) -> None:
        self.a, self.b = team_name(), team_name()
        settings = parse(
            f"""
            admin: {{keys: [sk-admin]}}
            providers: {{openai: {{format: openai, base_url: "http://127.0.0.1:9"}}}}
            models: [{{name: gpt, provider: openai}}]
            teams: [{{id: {self.a}, keys: [sk-a]}}, {{id: {self.b}, keys: [sk-b]}}]
            """,
            {},
        )
        self.client = open_state(state_url, timeout_s=5)
        self.cache = RedisStore(self.client)
        paths = Paths.of(folder)
        connect_journal(paths.journal).close()
        current = Current(compile_snapshot(settings))
        self._store = Store(paths.journal)
        self.now_ms = NOW_MS
        api = Api(
            current,
            self._store,
            Refresher(current, self.client, paths),
            self.client,
            paths,
            wall_s=lambda: self.now_ms / 1000,
            replica=f"replica-of-{self.a}",
        )
        self.routes = api.routes()
        self._runner = web.AppRunner(application(api), access_log=None)
        self._socket = str(folder / "control.sock")

    async def __aenter__(self) -> "Control":
        await self._runner.setup()
        await web.UnixSite(self._runner, self._socket).start()
        self.http = aiohttp.ClientSession(connector=aiohttp.UnixConnector(self._socket))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()
        await self._runner.cleanup()
        await self.client.aclose()
        self._store.close()

    async def ask(self, method: str, path: str, body: Any = None, who: str = "admin") -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {KEYS[who]}"} if KEYS[who] else {}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        async with self.http.request(method, f"http://gateway{path}", data=data, headers=headers) as answer:
            text = await answer.text()
            found = json.loads(text) if answer.content_type == "application/json" else text
            conforms(method, path, answer.status, found)
            return answer.status, found

    async def delete(self, **body: Any) -> int:
        status, answer = await self.ask("DELETE", "/v1/cache", body)
        assert status == 200, answer
        deleted: int = answer["entries_deleted"]
        return deleted

    async def keep(self, known: Key, **changes: Any) -> Key:
        made = entry(known, **changes)
        asked_ms = changes.get("stored_ms", NOW_MS)
        stowed = await self.cache.store(made, Ticket(known, made.team_id, asked_ms), TTL_MS, 10**8)
        assert stowed.outcome == "kept"
        return known

    async def has(self, known: Key) -> bool:
        return not isinstance(await self.cache.look_up(known, NOW_MS, "", 0), Flight)


@pytest.fixture
async def control(valkey: Valkey) -> AsyncIterator[Control]:
    with tempfile.TemporaryDirectory(prefix="control-") as folder:
        async with Control(Path(folder), valkey.url) as running:
            yield running


async def test_scopes(control: Control) -> None:
    one = await control.keep(key("one", team=control.a))
    two = await control.keep(key("two", team=control.a), model="claude")
    other = await control.keep(key("one", team=control.b))
    shared = key_of(SHARED, "model:gpt", chat(control.a))
    await control.keep(shared, team_id=control.a)
    assert await control.delete(scope="key", cache_key=one.digest) == 1
    assert await control.delete(scope="key", cache_key=one.digest) == 0
    assert await control.delete(scope="model", model="claude", team_id=control.a) == 1
    assert await control.delete(scope="team", team_id=control.a) == 1, "what it shared is its own too"
    assert [await control.has(known) for known in (one, two, shared, other)] == [False, False, False, True]
    assert await control.delete(scope="all") >= 1
    assert not await control.has(other)


async def test_older_than(control: Control) -> None:
    old = await control.keep(key("old", team=control.a), stored_ms=NOW_MS - 2 * HOUR_MS)
    young = await control.keep(key("young", team=control.a), stored_ms=NOW_MS - HOUR_MS // 2)
    assert await control.delete(scope="team", team_id=control.a, older_than="1h") == 1
    assert (await control.has(old), await control.has(young)) == (False, True)
    assert await control.delete(scope="team", team_id=control.a, older_than=1800.5) == 0
    assert await control.delete(scope="team", team_id=control.a, older_than=60) == 1


async def test_more_than_one_scan(control: Control) -> None:
    for number in range(1203):
        await control.keep(key(f"question {number}", team=control.a))
    assert await control.delete(scope="team", team_id=control.a) == 1203
    assert await control.cache.size(f"team:{control.a}", NOW_MS) == (0, 0)


@pytest.mark.parametrize("body", [{"scope": "all"}, {"scope": "team"}, {"scope": "model", "model": "gpt"}])
async def test_what_is_on_its_way_is_not_kept(control: Control, body: dict[str, Any]) -> None:
    """An answer that was asked for before the like of it was deleted does not come back afterwards."""
    known = key("on its way", team=control.a)
    await control.delete(**(body | ({"team_id": control.a} if body["scope"] == "team" else {})))
    late = await control.cache.store(entry(known), Ticket(known, control.a, NOW_MS - 1), TTL_MS, 10**8)
    assert late.outcome == "purged"
    asked_after = await control.cache.store(entry(known), Ticket(known, control.a, NOW_MS + 1), TTL_MS, 10**8)
    assert asked_after.outcome == "kept"


async def test_what_a_body_is_instead_is_told_in_words_of_json(control: Control) -> None:
    _, answer = await control.ask("DELETE", "/v1/cache", b'"all"')
    assert answer["error"]["message"] == "The body must be a JSON object: Expected object, got string."


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "scope"),
        ({"scope": "everything"}, "scope"),
        ({"scope": ["all"]}, "scope"),
        ({"scope": "team"}, "team_id"),
        ({"scope": "team", "team_id": 7}, "team_id"),
        ({"scope": "all", "team_id": "a"}, "team_id"),
        ({"scope": "model"}, "model"),
        ({"scope": "team", "team_id": "a", "model": "gpt"}, "model"),
        ({"scope": "key"}, "cache_key"),
        ({"scope": "key", "cache_key": ""}, "cache_key"),
        ({"scope": "all", "older_than": "yesterday"}, "older_than"),
        ({"scope": "all", "older_than": -1}, "older_than"),
        ({"scope": "all", "older_than": True}, "older_than"),
        ({"scope": "all", "older": "1h"}, "older"),
        (b"[]", None),
        (b"", None),
    ],
)
async def test_a_wrong_field_is_named(control: Control, body: Any, param: str | None) -> None:
    known = await control.keep(key("stays", team=control.a))
    status, answer = await control.ask("DELETE", "/v1/cache", body)
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "invalid_request_error", param)
    assert await control.has(known)


async def test_who_may(control: Control) -> None:
    assert (await control.ask("DELETE", "/v1/cache", {"scope": "all"}, "a"))[0] == 403
    assert (await control.ask("DELETE", "/v1/cache", {"scope": "all"}, "none"))[0] == 401
    assert (await control.ask("GET", "/v1/cache/stats", who="none"))[0] == 401
    _, own = await control.ask("GET", "/v1/cache/stats", who="a")
    assert [team["team_id"] for team in own["teams"]] == [control.a]
    _, all_teams = await control.ask("GET", "/v1/cache/stats")
    assert {team["team_id"] for team in all_teams["teams"]} == {control.a, control.b}


async def test_statistics_are_of_all_replicas_and_metrics_of_this_one(control: Control) -> None:
    await control.keep(key("one", team=control.a))
    mine = {f"{control.a}|hits|": 3, f"{control.a}|misses|": 5, f"{control.a}|saved_nano_usd|": 2_000_000_000}
    mine |= {f"{control.a}|bypasses|asked": 2, f"{control.a}|refused|oversized": 1}
    await control.cache.add_counts(f"replica-of-{control.a}", Batch(f"mine-{control.a}", mine))
    theirs = {f"{control.a}|semantic_hits|": 1, f"{control.a}|checked|": 50, f"{control.a}|wrong|": 1}
    await control.cache.add_counts(f"another-of-{control.a}", Batch(f"theirs-{control.a}", theirs))
    for _ in range(3):
        await control.cache.add_check(f"team:{control.a}", 15, wrong=False)
    await control.cache.add_check(f"team:{control.a}", 2, wrong=True)
    _, answer = await control.ask("GET", "/v1/cache/stats", who="a")
    assert answer["teams"] == [
        {
            "team_id": control.a,
            "hits": 3,
            "semantic_hits": 1,
            "misses": 5,
            "bypasses": 2,
            "hit_rate": pytest.approx(4 / 9),
            "semantic": {"threshold": START, "checked": 3, "wrong": 0, "upper": pytest.approx(0.63, abs=0.01)},
            "estimated_wrong_hit_rate": 0.02,
            "saved_tokens": 0,
            "saved_usd": 2.0,
            "entries": 1,
            "bytes": answer["teams"][0]["bytes"],
        }
    ]
    assert answer["teams"][0]["bytes"] > 100
    _, text = await control.ask("GET", "/metrics")
    lines = text.splitlines()
    assert f'gateway_cache_requests_total{{team="{control.a}",result="hit",reason=""}} 3' in lines
    assert f'gateway_cache_requests_total{{team="{control.a}",result="bypass",reason="asked"}} 2' in lines
    assert f'gateway_cache_refused_total{{team="{control.a}",reason="oversized"}} 1' in lines
    assert f'gateway_cache_saved_cost_usd_total{{team="{control.a}"}} 2' in lines
    assert f'gateway_cache_entries{{partition="team:{control.a}"}} 1' in lines
    assert f'gateway_cache_semantic_threshold{{partition="team:{control.a}"}} {START}' in lines
    assert "semantic-hit" not in text


async def test_without_a_store(own_valkey: Valkey) -> None:
    """The cache's own calls say so; the metrics of all else are there."""
    with tempfile.TemporaryDirectory(prefix="control-") as folder:
        async with Control(Path(folder), own_valkey.url) as control:
            own_valkey.kill()
            for method, path in ROUTES:
                status, answer = await control.ask(method, path, {"scope": "all"} if method == "DELETE" else None)
                assert (status, answer["error"]["code"]) == (503, "state_unavailable")
            status, text = await control.ask("GET", "/metrics")
            assert status == 200
            assert "gateway_cache_requests_total" in text
