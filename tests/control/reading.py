"""The control API on a unix socket, reading a real journal: what its tests ask."""

import json
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
from control.store import Store
from extproc.paths import Paths
from extproc.settings import parse
from extproc.settle.journal import Batch, connect, write
from extproc.snapshot.current import Current, compile_snapshot
from extproc.snapshot.refresh import Refresher
from extproc.state import redis_py
from tests.control.conformity import conforms

NOW_S = datetime(2026, 11, 24, 12, 0, tzinfo=UTC).timestamp()
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
    client, now = redis_py.connect("unix:///nonexistent/v.sock"), current()
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
