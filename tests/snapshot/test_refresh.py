"""Changes reach a process through a real Valkey and through the runtime file; without either it goes by what it has."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from extproc import runtime
from extproc.paths import Paths
from extproc.process.doorbell import Bell, ring
from extproc.settings import parse
from extproc.snapshot import refresh, shared
from extproc.snapshot.current import Current, compile_snapshot
from extproc.snapshot.overrides import MadeKey, TeamOverride
from extproc.snapshot.refresh import Refresher
from extproc.state.redis_py import Client, connect
from tests.budget.conftest import Valkey

CONFIG = """
providers: {openai: {format: openai, base_url: "http://127.0.0.1:9"}}
models: [{name: gpt, provider: openai}]
teams: [{id: a, keys: [sk-a], budget: {daily_tokens: 1000}}]
"""
NOWHERE = "unix:///nonexistent/v.sock"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths.of(tmp_path)
    runtime.write(parse(CONFIG, {}), paths.runtime)
    return paths


@pytest.fixture
async def client(valkey: Valkey) -> AsyncIterator[Client]:
    client = connect(valkey.url, timeout_s=5)
    await client.delete(shared.KEY, shared.LOG_KEY)
    yield client
    await client.aclose()


def limit(current: Current) -> int | None:
    team = current.team("a")
    assert team
    return team.budget.daily_tokens


def process(paths: Paths) -> Current:
    return Current(compile_snapshot(runtime.read(paths.runtime)))


async def change(client: Client, against: int, daily_tokens: int | None) -> int:
    override = TeamOverride(changes={"budget": {"daily_tokens": daily_tokens}})
    return await shared.change(client, against, "a", override, {"to": daily_tokens})


async def test_a_change_is_seen(client: Client, paths: Paths) -> None:
    current = process(paths)
    refresher = Refresher(current, client, paths)
    await refresher.start()
    assert limit(current) == 1000
    assert await change(client, 0, 5) == 1
    await refresher.step()
    assert limit(current) == 5
    snapshot = current.snapshot
    await refresher.step()
    assert current.snapshot is snapshot, "nothing changed, nothing is compiled"


async def test_of_two_changes_at_once_one_is_told_to_look_again(client: Client) -> None:
    assert await change(client, 0, 5) == 1
    assert await change(client, 0, 6) == 0
    overrides = await shared.read(client)
    assert overrides
    assert overrides.teams["a"].changes == {"budget": {"daily_tokens": 5}}
    assert await client.xlen(shared.LOG_KEY) == 1, "what was not changed is not logged"


async def test_an_empty_override_is_forgotten(client: Client) -> None:
    await change(client, 0, 5)
    assert await shared.change(client, 1, "a", TeamOverride(), {}) == 2
    assert await shared.read(client) == shared.Overrides(2, {})


async def test_without_the_state_the_last_changes_stay(client: Client, paths: Paths, valkey: Valkey) -> None:
    settler = process(paths)
    keeper = Refresher(settler, client, paths, keep=True)
    await keeper.start()
    await change(client, 0, 5)
    await keeper.step()
    away = connect(NOWHERE)
    worker = process(paths)
    refresher = Refresher(worker, away, paths)
    await refresher.start()
    assert limit(worker) == 5, "it began while the state was away"
    await refresher.step()
    assert limit(worker) == 5


async def test_a_state_that_was_emptied_leaves_the_file(client: Client, paths: Paths) -> None:
    current = process(paths)
    refresher = Refresher(current, client, paths, keep=True)
    await change(client, 0, 5)
    await refresher.start()
    await client.delete(shared.KEY)
    await refresher.step()
    assert limit(current) == 1000
    away = process(paths)
    await Refresher(away, connect(NOWHERE), paths).start()
    assert limit(away) == 1000


async def test_what_is_not_ours_changes_nothing(client: Client, paths: Paths) -> None:
    current = process(paths)
    await client.hset(shared.KEY, mapping={"version": "7", "team:a": "not JSON"})
    refresher = Refresher(current, client, paths)
    await refresher.start()
    assert limit(current) == 1000


async def test_a_key_ends_when_its_time_comes_with_no_change_to_tell_of_it(client: Client, paths: Paths) -> None:
    now_s = 100.0
    current = process(paths)
    refresher = Refresher(current, client, paths, wall_s=lambda: now_s)
    await refresher.start()
    key = MadeKey("sha256:" + 64 * "0", "last", 0.0, "sha256:0", expires_at=200.0)
    await shared.change(client, 0, "a", TeamOverride(keys_made=(key,)), {})
    for moment_s, holds in ((100.0, True), (199.9, True), (200.0, False)):
        now_s = moment_s
        await refresher.step()
        assert (key.digest in current.snapshot.catalog.teams) is holds


async def test_a_new_runtime_file_is_taken_and_changes_stay_over_it(client: Client, paths: Paths) -> None:
    current = process(paths)
    refresher = Refresher(current, client, paths)
    await refresher.start()
    runtime.write(parse(CONFIG.replace("1000", "2000"), {}), paths.runtime)
    await refresher.step()
    assert limit(current) == 2000
    await change(client, 0, 5)
    await refresher.step()
    runtime.write(parse(CONFIG.replace("1000", "3000"), {}), paths.runtime)
    await refresher.step()
    assert limit(current) == 5
    paths.runtime.write_text("half a fi")
    await refresher.step()
    assert limit(current) == 5
    assert current.snapshot.configured.teams[0].budget.daily_tokens == 3000


async def test_the_bell_has_it_look_at_once(
    client: Client, paths: Paths, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh, "EVERY_S", 1_000.0)
    paths.sockets.mkdir(parents=True, exist_ok=True)
    current, bell = process(paths), Bell(paths.bell_socket(0))
    changed = asyncio.Event()
    current.on_swap.append(lambda _: changed.set())
    refresher = Refresher(current, client, paths)
    await refresher.start()
    running = asyncio.create_task(refresher.run(bell))
    await change(client, 0, 5)
    ring(paths)
    async with asyncio.timeout(30):
        await changed.wait()
    assert limit(current) == 5
    running.cancel()
    bell.close()
