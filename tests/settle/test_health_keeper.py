"""The keeper of health: what it writes for workers and control, and what replicas tell one another."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from extproc.paths import Paths
from extproc.routing import shared
from extproc.routing.breaker import Circuit
from extproc.routing.health import Health, Standings
from extproc.routing.standing import View
from extproc.routing.watch import Watch
from extproc.settings import Settings, parse
from extproc.settle import health
from extproc.settle.health import HealthFile, Keeper
from extproc.settle.rows import AttemptRow
from extproc.state.redis_py import connect
from tests.budget.conftest import Valkey, valkey
from tests.settle.builders import attempt

__all__ = ["valkey"]

SETTINGS = """
providers: {openai: {format: openai, base_url: "http://127.0.0.1:9"}}
models: [{name: gpt, provider: openai}]
teams: [{id: a, keys: [k]}]
"""


def settings(more: str = "") -> Settings:
    return parse(SETTINGS + more, {})


class Replica:
    """A keeper with its own data directory, and its worker's view."""

    def __init__(self, folder: Path, url: str, name: str, more: str = "") -> None:
        self.paths = Paths.of(folder / name)
        self.refused: list[tuple[str, int, Circuit]] = []
        self.client = connect(url)
        self.keeper = Keeper(settings(more), self.paths, self.client, name, lambda *told: self.refused.append(told))
        self.view = View(settings().breaker)
        self.watch = Watch(self.paths.standings, self.view)

    @property
    def standings(self) -> Standings:
        self.watch.look()
        return self.view.standings

    @property
    def health(self) -> HealthFile:
        return msgspec.json.decode(self.paths.health.read_bytes(), type=HealthFile)

    def fail(self, times: int = 5, **changes: Any) -> None:
        for _ in range(times):
            self.keeper.take(now(verdict="error", status=500, **changes))


def now(**changes: Any) -> AttemptRow:
    at = time.time()
    return attempt(**({"started_at": at, "at": at} | changes))


@contextlib.asynccontextmanager
async def running(*replicas: Replica) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(replica.keeper.run()) for replica in replicas]
    try:
        yield
    finally:
        while pending := [task for task in tasks if not task.done()]:
            for task in pending:  # once more if need be: a client's own deadline can swallow a cancellation
                task.cancel()
            await asyncio.wait(pending, timeout=1)
        for replica in replicas:
            await replica.client.aclose()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - files tell nobody
            await asyncio.sleep(0.02)


@pytest.fixture(autouse=True)
async def _fresh(valkey: Valkey) -> None:
    client = connect(valkey.url)
    await client.flushall()
    await client.aclose()


async def test_every_replica_learns_of_an_open_circuit_and_of_its_closing(tmp_path: Path, valkey: Valkey) -> None:
    one = Replica(tmp_path, valkey.url, "one", "breaker: {open_for: 100ms}")
    two = Replica(tmp_path, valkey.url, "two", "breaker: {open_for: 100ms}")
    async with running(one, two):
        one.fail()
        await until(lambda: "openai" in one.standings.circuits and "openai" in two.standings.circuits)
        await asyncio.sleep(0.15)  # half-open by now
        for _ in range(3):
            two.keeper.take(now())
        await until(lambda: not one.standings.circuits and not two.standings.circuits)
        # The failures of before do not open it again.
        one.fail(4)
        await asyncio.sleep(0.3)
        assert not one.standings.circuits


async def test_figures_are_those_of_all_replicas(tmp_path: Path, valkey: Valkey) -> None:
    one, two = Replica(tmp_path, valkey.url, "one"), Replica(tmp_path, valkey.url, "two")
    async with running(one, two):
        for _ in range(30):
            one.keeper.take(now(first_byte_ms=100.0))
        two.fail(10, model="gpt")
        await until(lambda: one.paths.health.exists() and one.health.figures.get("openai") is not None)
        await until(lambda: one.health.figures["openai"].attempts_1m == 40)
        await until(lambda: two.health.figures["openai/gpt"].attempts_1m == 40)
        assert two.health.figures["openai/gpt"].error_rate_1m == 0.25
        assert one.standings.latencies["openai/gpt"].whole_p99_ms == pytest.approx(100, rel=0.05)


async def test_nothing_new_is_told_by_a_sign_of_life(
    tmp_path: Path, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "ALIVE_EVERY_S", 0.1)
    one = Replica(tmp_path, valkey.url, "one")
    async with running(one):
        one.keeper.take(now())
        await until(lambda: one.paths.health.exists() and "openai" in one.health.figures)
        file, left = one.paths.health.stat(), await one.client.hget(shared.RECORDS_KEY, "one")
        await until(lambda: one.paths.health.stat().st_mtime_ns > file.st_mtime_ns)
        assert one.paths.health.stat().st_ino == file.st_ino
        async with asyncio.timeout(10):
            while await one.client.hget(shared.RECORDS_KEY, "one") == left:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
        assert "openai" in (await shared.records(one.client))["one"]
        one.paths.health.unlink()
        await until(one.paths.health.exists)


async def test_a_replica_that_has_gone_counts_no_more(
    tmp_path: Path, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(valkey.url)
    one = Health(settings().breaker).records(time.time())
    await shared.leave_records(client, "one", one, time.time() - shared.CURRENT_S - 1)
    await shared.leave_records(client, "two", one, time.time() - health.ALIVE_EVERY_S)
    assert (await shared.records(client)).keys() == {"two"}
    await client.aclose()


async def test_rate_limits_and_drained_providers_are_everyones(tmp_path: Path, valkey: Valkey) -> None:
    one, two = Replica(tmp_path, valkey.url, "one"), Replica(tmp_path, valkey.url, "two")
    async with running(one, two):
        one.keeper.take(now(verdict="rate_limited", status=429, retry_after_s=20.0))
        await until(lambda: "openai" in two.standings.limited_until_s)
        await shared.drain(two.client, "openai", shared.Drain(time.time(), "admin"))
        await until(lambda: one.standings.drained == two.standings.drained == {"openai"})
        await shared.drain(one.client, "openai", None)
        await shared.reset(one.client, "openai", (), time.time())
        await until(lambda: one.standings == two.standings == Standings())


async def test_what_was_not_told_yet_is_closed_by_hand_too(tmp_path: Path, valkey: Valkey) -> None:
    one, two = Replica(tmp_path, valkey.url, "one"), Replica(tmp_path, valkey.url, "two")
    two.fail()
    assert set(two.standings.circuits) == {"openai", "openai/gpt"}
    await shared.reset(one.client, "openai", ["gpt"], time.time() - 0.5)  # since then attempts of before were told of
    async with running(one, two):
        await until(lambda: not two.standings.circuits)
    assert not one.standings.circuits


async def test_a_wait_that_was_not_told_yet_is_ended_by_hand_too(tmp_path: Path, valkey: Valkey) -> None:
    one, two = Replica(tmp_path, valkey.url, "one"), Replica(tmp_path, valkey.url, "two")
    asked = now(verdict="rate_limited", status=429, retry_after_s=60.0)
    two.keeper.take(asked)
    assert "openai" in two.standings.limited_until_s
    await shared.reset(one.client, "openai", ["gpt"], time.time())
    async with running(one, two):
        await until(lambda: not two.standings.limited_until_s)
        two.keeper.take(asked)  # Envoy's other thread tells of one more, of the same time
        await asyncio.sleep(0.3)
        assert not one.standings.limited_until_s
        assert not two.standings.limited_until_s
        assert not (await shared.read(one.client)).limited_until_s
        two.keeper.take(now(verdict="rate_limited", status=429, retry_after_s=60.0))
        await until(lambda: "openai" in one.standings.limited_until_s)


async def test_a_wait_that_was_asked_for_since_then_stays(tmp_path: Path, valkey: Valkey) -> None:
    one, two = Replica(tmp_path, valkey.url, "one"), Replica(tmp_path, valkey.url, "two")
    await shared.reset(one.client, "openai", ["gpt"], time.time() - 0.1)
    two.keeper.take(now(verdict="rate_limited", status=429, retry_after_s=60.0))  # before it has read of that
    async with running(one, two):
        await until(lambda: "openai" in one.standings.limited_until_s)
        assert "openai" in two.standings.limited_until_s


async def test_without_the_shared_state_a_replica_goes_by_itself(tmp_path: Path) -> None:
    one = Replica(tmp_path, "unix:///nonexistent/v.sock", "one")
    async with running(one):
        one.fail()
        await until(lambda: "openai" in one.standings.circuits)


async def test_what_was_not_told_is_told_when_the_state_is_back(tmp_path: Path, valkey: Valkey) -> None:
    one, two = Replica(tmp_path, valkey.url, "one"), Replica(tmp_path, valkey.url, "two")
    async with running(one, two):
        await until(two.paths.standings.exists)
        valkey.kill()
        one.fail()
        await until(lambda: "openai" in one.standings.circuits)
        assert not two.standings.circuits
        await asyncio.to_thread(valkey.start)
        await until(lambda: "openai" in two.standings.circuits)


async def test_a_refused_credential_is_told_once(tmp_path: Path, valkey: Valkey) -> None:
    one = Replica(tmp_path, valkey.url, "one")
    async with running(one):
        for _ in range(5):
            one.keeper.take(now(verdict="error", status=401))
        assert [(provider, status) for provider, status, _ in one.refused] == [("openai", 401)]
        assert one.refused[0][2].reason == "credential"


async def test_a_probe_that_is_refused_again_is_not_told_again(tmp_path: Path, valkey: Valkey) -> None:
    one = Replica(tmp_path, valkey.url, "one", "breaker: {open_for: 1ms}\n")
    async with running(one):
        versions = set()
        for _ in range(3):
            one.keeper.take(now(verdict="error", status=403))
            versions.add(one.health.circuits["openai/gpt"].version)
            await asyncio.sleep(0.01)
        assert len(versions) == 3
        assert [key for key, *_ in one.refused] == ["openai/gpt"]


@pytest.mark.parametrize(("waited_s", "failed"), [(0.5, False), (40.0, True)])
async def test_an_abandoned_attempt_that_waited_too_long_is_a_failure(
    tmp_path: Path, valkey: Valkey, waited_s: float, failed: bool
) -> None:
    one = Replica(tmp_path, valkey.url, "one")
    at = time.time()
    async with running(one):
        for _ in range(5):
            one.keeper.take(attempt(verdict="abandoned", status=None, started_at=at, at=at + waited_s))
        await until(one.paths.standings.exists)
        await asyncio.sleep(0.1)
        assert bool(one.standings.circuits) is failed


async def test_a_new_settler_knows_what_the_last_one_knew(tmp_path: Path, valkey: Valkey) -> None:
    first = Replica(tmp_path, valkey.url, "one")
    async with running(first):
        first.fail()
        await until(lambda: first.paths.health.exists() and "openai" in first.health.circuits)
    second = Replica(tmp_path, "unix:///nonexistent/v.sock", "one")
    second.keeper.start([now(at=time.time() - 30), now(verdict="abandoned")])
    async with running(second):
        await until(lambda: "openai" in second.standings.circuits)
        await until(lambda: second.health.figures["openai"].attempts_1m == 1)


async def test_nothing_unreadable_stops_it(tmp_path: Path, valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    one = Replica(tmp_path, valkey.url, "one")
    one.paths.health.parent.mkdir(parents=True)
    one.paths.health.write_bytes(b"{")
    one.keeper.start([])
    await one.client.execute_command("HSET", shared.CIRCUITS_KEY, "circuit:openai", "{")
    async with running(one):
        one.fail()
        await until(lambda: "openai" in one.standings.circuits)
    one.paths.standings.write_bytes(b"{")
    before = one.view.standings
    caplog.set_level("INFO")
    caplog.clear()
    for _ in range(3):
        one.watch.look()
    assert one.view.standings is before
    one.paths.standings.write_bytes(msgspec.json.encode(Standings()))
    one.watch.look()
    assert one.view.standings == Standings()
    told = [record.message for record in caplog.records if record.name == "extproc.routing.watch"]
    assert told == ["providers' health cannot be read; the last stays", "providers' health is read again"]
