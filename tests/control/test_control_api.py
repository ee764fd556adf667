"""The control API over HTTP on a unix socket, reading a real journal."""

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from control import config_status
from control.app import Api, application
from control.config_status import Attempt, ConfigStatus
from control.http1 import ask
from control.store import Store
from extproc import runtime
from extproc.budget import redis
from extproc.paths import Paths
from extproc.settings import parse
from extproc.settle.journal import Batch, connect, write
from extproc.snapshot.current import Current, compile_snapshot
from extproc.snapshot.refresh import Refresher
from extproc.telemetry.trace_context import context
from tests.control.conformity import conforms
from tests.settle.builders import attempt, audit

NOW_S = datetime(2026, 11, 24, 12, 0, tzinfo=UTC).timestamp()
DAY_S = 86_400.0
KEYS = {"admin": "sk-admin", "team": "sk-search", "other": "sk-support", "unknown": "sk-wrong", "none": None}
SETTINGS = """
admin: {keys: [sk-admin]}
providers:
  openai: {format: openai, base_url: "http://127.0.0.1:9"}
  anthropic: {format: anthropic, base_url: "http://127.0.0.1:9"}
models: [{name: gpt, provider: openai}, {name: claude, provider: anthropic}]
teams:
  - {id: team-search, keys: [sk-search], budget: {daily_tokens: 1000, monthly_tokens: 10000, daily_usd: 0.001}}
  - {id: team-support, keys: [sk-support], budget: {timezone: Asia/Kolkata}}
"""


def current() -> Current:
    return Current(compile_snapshot(parse(SETTINGS, {})))


def api(store: Store, folder: Path) -> Api:
    """With the shared state away: what changes it is in test_teams_api.py."""
    client, now = redis.connect("unix:///nonexistent/v.sock"), current()
    paths = Paths.of(folder)
    return Api(now, store, Refresher(now, client, paths), client, paths, wall_s=lambda: NOW_S)


class Control:
    """The API, its journal, and a client."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "control.sock"
        self.journal = folder / "journal.db"
        self.connection = connect(self.journal)
        loaded = ConfigStatus("gateway.yaml", None, "0123456789ab", NOW_S, Attempt(NOW_S, "applied"))
        config_status.write(loaded, Paths.of(folder).config_status)
        self.http = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.socket)))

    def write(self, *rows: Any) -> None:
        requests = [row for row in rows if hasattr(row, "team_id")]
        write(self.connection, Batch(requests, [row for row in rows if row not in requests]))

    async def get(self, path: str, who: str = "admin", method: str = "GET", **headers: str) -> tuple[int, Any]:
        key = KEYS[who]
        headers |= {"authorization": f"Bearer {key}"} if key else {}
        async with self.http.request(method, f"http://gateway{path}", headers=headers) as answer:
            text = await answer.text()
            self.headers = answer.headers
            found = json.loads(text) if answer.content_type == "application/json" else text
            conforms(method, str(answer.url.relative()), answer.status, found)
            return answer.status, found


@pytest.fixture
async def control() -> AsyncIterator[Control]:
    with tempfile.TemporaryDirectory(prefix="control-") as folder:
        control = Control(Path(folder))
        store = Store(control.journal)
        runner = web.AppRunner(application(api(store, Path(folder))), access_log=None)
        await runner.setup()
        await web.UnixSite(runner, str(control.socket)).start()
        yield control
        await control.http.close()
        await runner.cleanup()
        store.close()
        control.connection.close()


ROLES: dict[str, dict[str, int]] = {
    "/healthz": {"admin": 200, "team": 200, "other": 200, "unknown": 200, "none": 200},
    "/readyz": {"admin": 200, "team": 200, "other": 200, "unknown": 200, "none": 200},
    "/metrics": {"admin": 200, "team": 200, "other": 200, "unknown": 200, "none": 200},
    "/v1/requests": {"admin": 200, "team": 200, "other": 200, "unknown": 401, "none": 401},
    "/v1/requests?team_id=team-search": {"admin": 200, "team": 200, "other": 403, "unknown": 401, "none": 401},
    "/v1/requests?team_id=nobody": {"admin": 200, "team": 403, "other": 403, "unknown": 401, "none": 401},
    "/v1/requests/team-search": {"admin": 404, "team": 404, "other": 404, "unknown": 401, "none": 401},  # as an id
    "/v1/usage": {"admin": 200, "team": 403, "other": 403, "unknown": 401, "none": 401},
    "/v1/teams/team-search/usage": {"admin": 200, "team": 200, "other": 403, "unknown": 401, "none": 401},
    "/v1/teams/nobody/usage": {"admin": 404, "team": 403, "other": 403, "unknown": 401, "none": 401},
    "/v1/providers/health": {"admin": 200, "team": 200, "other": 200, "unknown": 401, "none": 401},
    "/v1/config": {"admin": 200, "team": 403, "other": 403, "unknown": 401, "none": 401},
    "/v1/me": {"admin": 200, "team": 200, "other": 200, "unknown": 401, "none": 401},
    "/v1/usage/series": {"admin": 200, "team": 200, "other": 200, "unknown": 401, "none": 401},
    "/v1/usage/series?team_id=team-search": {"admin": 200, "team": 200, "other": 403, "unknown": 401, "none": 401},
    "/v1/usage/routing": {"admin": 200, "team": 200, "other": 200, "unknown": 401, "none": 401},
    "/v1/usage/routing?team_id=team-search": {"admin": 200, "team": 200, "other": 403, "unknown": 401, "none": 401},
    "/v1/providers/series": {"admin": 200, "team": 200, "other": 200, "unknown": 401, "none": 401},
    "/ui": {"admin": 200, "team": 200, "other": 200, "unknown": 200, "none": 200},  # after its redirection
    "/ui/": {"admin": 200, "team": 200, "other": 200, "unknown": 200, "none": 200},
    "/ui/app.js": {"admin": 200, "team": 200, "other": 200, "unknown": 200, "none": 200},
    "/ui/..%2fapp.py": {"admin": 404, "team": 404, "other": 404, "unknown": 404, "none": 404},
    "/v1/nothing": {"admin": 404, "team": 404, "other": 404, "unknown": 404, "none": 404},
}
CODES = {401: {"invalid_api_key"}, 403: {"team_mismatch", "permission_denied"}, 404: {"not_found"}}


@pytest.mark.parametrize("who", KEYS)
@pytest.mark.parametrize("path", ROLES)
async def test_who_may_see_what(control: Control, path: str, who: str) -> None:
    status, body = await control.get(path, who)
    assert status == ROLES[path][who]
    if status >= 400:
        assert set(body["error"]) == {"message", "type", "param", "code"}
        assert body["error"]["code"] in CODES[status]


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic sk-admin", "sk-admin", "Bearer sk-admin x", "Bearer ü"]
)
async def test_odd_credentials_are_refused(control: Control, header: str) -> None:
    async with control.http.get("http://gateway/v1/usage", headers={"authorization": header}) as answer:
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_bearer_is_recognised_however_the_scheme_is_written(control: Control) -> None:
    async with control.http.get("http://gateway/v1/usage", headers={"authorization": "bearer  sk-admin "}) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_a_wrong_method_names_the_right_one(control: Control, method: str) -> None:
    status, body = await control.get("/v1/usage", method=method)
    assert (status, body["error"]["code"]) == (405, "method_not_allowed")
    assert "GET" in body["error"]["message"]
    assert "GET" in control.headers["allow"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=%D9%A1", "limit"),  # an Arabic digit
        ("limit=1&limit=2", "limit"),
        ("since=yesterday", "since"),
        ("since=2026-13-01", "since"),
        ("since=1e999", "since"),
        ("status=great", "status"),
        ("cursor=%00", "cursor"),
        ("cursor=WzFd", "cursor"),
        ("cursor=ü", "cursor"),
        ("team=team-search", "team"),
    ],
)
async def test_a_bad_query_parameter_is_named(control: Control, query: str, param: str) -> None:
    status, body = await control.get(f"/v1/requests?{query}")
    assert (status, body["error"]["code"], body["error"]["param"]) == (400, "invalid_request_error", param)


async def test_the_requests_id_is_on_every_answer(control: Control) -> None:
    for path in ("/healthz", "/v1/nothing", "/v1/usage"):
        await control.get(path, "none", **{"x-request-id": "abc"})
        assert control.headers["x-gateway-request-id"] == "abc"


class TestRequests:
    async def test_a_row_has_the_documented_fields(self, control: Control) -> None:
        silent: dict[str, Any] = {"status": None, "first_byte_ms": None, "total_ms": None}
        control.write(
            audit("a", received_at=NOW_S, completed_at=NOW_S + 0.9, native=True),
            attempt("a", started_at=NOW_S + 0.5, at=NOW_S + 0.9, provider="anthropic"),
            attempt("b"),
            attempt("a", at=NOW_S + 0.5, started_at=NOW_S, verdict="error", flags="a,b", **silent),
        )
        _, body = await control.get("/v1/requests")
        assert body == {
            "requests": [
                {
                    "request_id": "a",
                    "team_id": "team-search",
                    "model_requested": "auto",
                    "model_routed": "gpt",
                    "model_used": "gpt",
                    "provider_used": "openai",
                    "status": "success",
                    "error_code": None,
                    "http_status": 200,
                    "routing_decision": "simple_query",
                    "attempts": 1,
                    "priority": "normal",
                    "stream": True,
                    "native": True,
                    "cache_hit": False,
                    "cache": "bypass",
                    "saved_tokens": 0,
                    "saved_usd": 0.0,
                    "prompt_hash": "ab" * 32,
                    "input_tokens": 100,
                    "output_tokens": 50,
                    "cached_tokens": 0,
                    "cache_write_tokens": 0,
                    "reasoning_tokens": 0,
                    "estimated_input_tokens": 120,
                    "estimated_output_tokens": 300,
                    "estimated": False,
                    "outrun_tokens": 0,
                    "cost_usd": 0.0002,
                    "price_known": True,
                    "finish_reason": "stop",
                    "received_at": "2026-11-24T12:00:00.000Z",
                    "completed_at": "2026-11-24T12:00:00.900Z",
                    "latency_ms": 900.0,
                    "first_byte_ms": 212.0,
                    "gateway_latency_ms": 1.5,
                    "response_bytes": 5000,
                    "details": "via_upstream",
                    "trace_id": context("a", None).trace_id,
                    "steps_us": {},
                    "attempt_log": [
                        {
                            "provider": "openai",
                            "model": "gpt",
                            "verdict": "error",
                            "status": None,
                            "flags": ["a", "b"],
                            "first_byte_ms": None,
                            "total_ms": None,
                            "started_at": "2026-11-24T12:00:00.000Z",
                        },
                        {
                            "provider": "anthropic",
                            "model": "gpt",
                            "verdict": "ok",
                            "status": 200,
                            "flags": [],
                            "first_byte_ms": 200.0,
                            "total_ms": 880.0,
                            "started_at": "2026-11-24T12:00:00.500Z",
                        },
                    ],
                }
            ],
            "next_cursor": None,
        }

    async def test_an_unknown_price_is_shown_as_such(self, control: Control) -> None:
        control.write(audit("a", cost_nano_usd=None))
        _, body = await control.get("/v1/requests")
        assert (body["requests"][0]["cost_usd"], body["requests"][0]["price_known"]) == (None, False)

    async def ids(self, control: Control, query: str, who: str = "admin") -> list[str]:
        status, body = await control.get(f"/v1/requests?{query}", who)
        assert status == 200, body
        return [row["request_id"] for row in body["requests"]]

    async def test_filters(self, control: Control) -> None:
        control.write(
            audit("a", received_at=NOW_S - 300),
            audit("b", received_at=NOW_S - 200, status="failed"),
            audit("c", received_at=NOW_S - 100, model_used="claude"),
            audit("d", received_at=NOW_S - 400, team_id="team-support", model_requested="claude"),
        )
        expected = {
            "": ["c", "b", "a", "d"],
            "limit=2": ["c", "b"],
            "status=failed": ["b"],
            "model=claude": ["c", "d"],
            "team_id=team-support": ["d"],
            "team_id=nobody": [],
            f"since={NOW_S - 200}": ["c", "b"],
            "since=2026-11-24T11:56:40Z": ["c", "b"],
            "since=2026-11-24T12:56:40+01:00": ["c", "b"],
            "since=2026-11-24T12:56:40%2B01:00": ["c", "b"],
            "since=2026-11-24T11:56:40": ["c", "b"],
            "model=claude&status=success&team_id=team-search": ["c"],
        }
        assert {query: await self.ids(control, query) for query in expected} == expected
        assert await self.ids(control, "", "team") == ["c", "b", "a"]
        assert await self.ids(control, "status=failed", "other") == []

    async def test_pages_neither_repeat_nor_skip(self, control: Control) -> None:
        """Many rows share a moment, and new ones come in while pages are turned."""
        control.write(*(audit(f"r{n:03}", received_at=NOW_S + n // 10) for n in range(95)))
        seen: list[str] = []
        cursor = ""
        while True:
            _, body = await control.get(f"/v1/requests?limit=7{cursor}", "team")
            seen += [row["request_id"] for row in body["requests"]]
            control.write(audit(f"new{len(seen)}", received_at=NOW_S + 1_000 + len(seen)))
            if body["next_cursor"] is None:
                break
            cursor = f"&cursor={body['next_cursor']}"
        assert seen == [f"r{n:03}" for n in reversed(range(95))]

    async def test_a_thousand_rows_at_once(self, control: Control) -> None:
        control.write(*(audit(f"r{n}") for n in range(1_001)))
        assert len(await self.ids(control, "limit=1000")) == 1_000
        assert len(await self.ids(control, "")) == 100


class TestUsage:
    async def test_a_teams_usage(self, control: Control) -> None:
        control.write(
            audit("a", received_at=NOW_S),
            audit("b", received_at=NOW_S - DAY_S / 2 + 1, model_used="claude", output_tokens=0),  # since midnight
            audit("c", received_at=NOW_S - DAY_S, cost_nano_usd=None),
            audit("d", received_at=NOW_S - 40 * DAY_S),
            audit("e", received_at=NOW_S, team_id="team-support"),
            audit(
                "f",
                received_at=NOW_S,
                status="refused",
                model_used=None,
                model_routed="",
                input_tokens=0,
                output_tokens=0,
            ),
        )
        _, body = await control.get("/v1/teams/team-search/usage", "team")
        assert body == {
            "team_id": "team-search",
            "daily": {
                "used_tokens": 250,
                "limit_tokens": 1_000,
                "held_tokens": 0,
                "topup_tokens": 0,
                "used_usd": 0.0006,
                "limit_usd": 0.001,
                "held_usd": 0.0,
                "topup_usd": 0.0,
                "unpriced_tokens": 0,
                "resets_at": "2026-11-25T00:00:00.000Z",
                "pct_used": pytest.approx(60.0),  # of the dollars, which are nearer to their limit
            },
            "monthly": {
                "used_tokens": 400,
                "limit_tokens": 10_000,
                "held_tokens": 0,
                "topup_tokens": 0,
                "used_usd": 0.0006,
                "limit_usd": None,
                "held_usd": 0.0,
                "topup_usd": 0.0,
                "unpriced_tokens": 0,
                "resets_at": "2026-12-01T00:00:00.000Z",
                "pct_used": 4.0,
            },
            "top_models": [
                {"model": "gpt", "requests": 2, "tokens": 300, "cost_usd": 0.0002},
                {"model": "claude", "requests": 1, "tokens": 100, "cost_usd": 0.0002},
            ],
            "alert_thresholds_pct": [80.0],
            "auto_downgrade_active": False,
            "source": "audit",  # the ledger is away
        }

    async def test_a_day_is_that_of_the_teams_zone(self, control: Control) -> None:
        """In Kolkata, at 17:30, the day began at 18:30 UTC of the day before."""
        began_s = datetime(2026, 11, 23, 18, 30, tzinfo=UTC).timestamp()
        control.write(
            audit("a", received_at=began_s + 1, team_id="team-support"),
            audit("b", received_at=began_s - 1, team_id="team-support"),
        )
        _, body = await control.get("/v1/teams/team-support/usage", "other")
        assert (body["daily"]["used_tokens"], body["monthly"]["used_tokens"]) == (150, 300)
        assert (body["daily"]["limit_tokens"], body["daily"]["pct_used"]) == (None, None)

    async def test_all_teams(self, control: Control) -> None:
        control.write(
            audit("a", received_at=NOW_S),
            audit("b", received_at=NOW_S, team_id="team-support"),
            audit("c", received_at=NOW_S, team_id="team-support", model_used="claude"),
        )
        _, body = await control.get("/v1/usage")
        assert body["daily"]["used_tokens"] == 450
        assert body["daily"]["used_usd"] == pytest.approx(0.0006)
        assert body["daily"]["limit_tokens"] is None  # one team has none
        assert [(use["model"], use["tokens"]) for use in body["top_models"]] == [("gpt", 300), ("claude", 150)]
        assert [team["team_id"] for team in body["teams"]] == ["team-search", "team-support"]

    async def test_never_more_than_100_percent(self, control: Control) -> None:
        control.write(audit("a", received_at=NOW_S, input_tokens=5_000))
        _, body = await control.get("/v1/teams/team-search/usage")
        assert (body["daily"]["used_tokens"], body["daily"]["pct_used"]) == (5_050, 100.0)


class TestMetrics:
    async def test_prometheus_text(self, control: Control) -> None:
        control.write(audit("a"), audit("b", status="failed", cost_nano_usd=None), audit("c", cached_tokens=30))
        write(control.connection, Batch(counts={"unauthenticated_requests": 4}))
        status, text = await control.get("/metrics", "none")
        assert status == 200
        assert control.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        labels = (
            'gen_ai_operation_name="chat",gen_ai_provider_name="openai",gen_ai_response_model="gpt",team="team-search"'
        )
        for line in (
            f'gen_ai_client_token_usage_sum{{{labels},gen_ai_token_type="input"}} 300',
            f'gen_ai_client_token_usage_count{{{labels},gen_ai_token_type="output"}} 3',
            f'gen_ai_client_token_usage_bucket{{{labels},gen_ai_token_type="input",le="64"}} 0',
            f'gen_ai_client_token_usage_bucket{{{labels},gen_ai_token_type="input",le="256"}} 3',
            f'gen_ai_client_token_usage_bucket{{{labels},gen_ai_token_type="input",le="+Inf"}} 3',
            f'gen_ai_server_request_duration_seconds_count{{{labels},status="success"}} 2',
            f'gen_ai_server_request_duration_seconds_sum{{{labels},status="success"}} 1.8',
            f'gateway_requests_total{{{labels},status="failed"}} 1',
            f'gateway_cost_usd_total{{{labels},status="success"}} 0.0004',
            f'gateway_unpriced_requests_total{{{labels},status="failed"}} 1',
            f'gateway_cached_input_tokens_total{{{labels},status="success"}} 30',
            "gateway_unauthenticated_requests_total 4",
            "gateway_dropped_rows_total 0",
        ):
            assert line in text.splitlines()

    async def test_each_sample_follows_its_type(self, control: Control) -> None:
        control.write(audit("a"))
        _, text = await control.get("/metrics", "none")
        family = ""
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                family = line.split()[2]
            elif not line.startswith("#"):
                assert line.startswith(family)

    async def test_labels_are_escaped(self, control: Control) -> None:
        control.write(audit("a", model_used='a"b\\c\nd'))
        _, text = await control.get("/metrics", "none")
        assert r'gen_ai_response_model="a\"b\\c\nd"' in text


class TestJournalAway:
    async def test_no_journal_yet(self, control: Control) -> None:
        control.connection.close()
        for path in control.journal.parent.glob("journal.db*"):
            path.unlink()
        for path in ("/readyz", "/metrics", "/v1/requests", "/v1/usage"):
            status, body = await control.get(path)
            assert (status, body["error"]["code"]) == (503, "audit_unavailable")
        assert (await control.get("/healthz"))[0] == 200

    async def test_it_is_noticed_when_the_journal_appears(self, control: Control) -> None:
        control.connection.close()
        aside = control.journal.with_suffix(".aside")
        control.journal.rename(aside)
        assert (await control.get("/readyz"))[0] == 503
        aside.rename(control.journal)
        assert (await control.get("/readyz"))[0] == 200

    async def test_a_damaged_journal_is_a_clear_error(self, control: Control) -> None:
        control.connection.close()
        for path in control.journal.parent.glob("journal.db*"):
            path.unlink()
        control.journal.write_bytes(b"not a database at all " * 1_000)
        status, body = await control.get("/v1/requests")
        assert (status, body["error"]["code"]) == (503, "audit_unavailable")
        assert "database" not in body["error"]["message"]

    async def test_a_writer_at_work_holds_nobody_up(self, control: Control) -> None:
        control.write(audit("a"))
        control.connection.execute("BEGIN IMMEDIATE")
        status, body = await control.get("/v1/requests")
        assert (status, len(body["requests"])) == (200, 1)
        control.connection.execute("ROLLBACK")


async def test_a_query_has_its_limit_of_time(tmp_path: Path) -> None:
    connect(tmp_path / "journal.db").close()
    store = Store(tmp_path / "journal.db", limit_s=0.05)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(Exception, match="too long") as caught:
        await store.read(lambda connection: connection.exec_driver_sql(endless).fetchall())
    assert caught.type.__name__ == "AuditUnavailable"
    assert await store.read(lambda connection: connection.exec_driver_sql("SELECT 1").fetchall()) == [(1,)]
    store.close()


async def test_reading_cannot_write(tmp_path: Path) -> None:
    connect(tmp_path / "journal.db").close()
    store = Store(tmp_path / "journal.db")
    with pytest.raises(Exception, match="cannot be read"):
        await store.read(lambda connection: connection.exec_driver_sql("INSERT INTO counter VALUES ('x', 1)"))
    store.close()


async def test_a_fault_of_ours_shows_no_trace(control: Control, caplog: pytest.LogCaptureFixture) -> None:
    control.write(audit("a"))
    control.connection.execute("UPDATE audit SET steps_us = 'no such steps'")
    status, body = await control.get("/v1/requests")
    assert status == 500
    assert body["error"]["code"] == "internal_error"
    assert "steps" not in body["error"]["message"]
    assert "JSON is malformed" in caplog.text


def test_the_process_serves_and_ends(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="control-") as folder:
        paths = Paths.of(Path(folder))
        runtime.write(parse(SETTINGS, {}), paths.runtime)
        connect(paths.journal).close()
        code = f"from pathlib import Path; from control.app import run; run(Path({folder!r}))"
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert json.loads(process.stderr.readline())["event"].startswith("run-time changes cannot be read")
        assert json.loads(process.stderr.readline())["event"] == "serving"
        assert asyncio.run(ask(paths.control_socket, "/readyz")) == (200, '{"status":"ready"}')
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        process.stderr.close()
