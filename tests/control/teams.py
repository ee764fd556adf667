"""The control API with teams, on a real Valkey: what its tests ask, and of whom."""

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
from extproc.budget.redis import RedisLedger
from extproc.paths import Paths
from extproc.settings import parse
from extproc.settle.journal import connect as connect_journal
from extproc.snapshot.current import Current, compile_snapshot
from extproc.snapshot.refresh import Refresher
from extproc.state.pipe import open_state
from extproc.state.redis_py import connect
from tests.budget.conftest import Valkey
from tests.control.conformity import conforms

NOW_S = datetime(2031, 2, 27, 12, 0, tzinfo=UTC).timestamp()
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


TOPUP = {"window": "daily", "unit": "tokens", "amount": 500}


class Control:
    """A control API; another one on the same state is another replica."""

    def __init__(self, folder: Path, state_url: str) -> None:
        self.paths = Paths.of(folder)
        runtime.write(parse(SETTINGS, {}), self.paths.runtime)
        connect_journal(self.paths.journal).close()
        self.client = open_state(state_url, timeout_s=5)
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
