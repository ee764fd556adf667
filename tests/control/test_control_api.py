"""The control API over HTTP on a unix socket, reading a real journal."""

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from control.store import Store
from extproc import runtime
from extproc.paths import Paths
from extproc.process.http1 import ask
from extproc.settings import parse
from extproc.settle.journal import connect
from tests.control.reading import KEYS, SETTINGS, Control, control
from tests.settle.builders import audit

__all__ = ["control"]

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


async def test_no_answer_says_what_serves_it(control: Control) -> None:
    for path in ("/healthz", "/v1/me", "/ui/"):
        await control.get(path)
        assert "server" not in control.headers


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
