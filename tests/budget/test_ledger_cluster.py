"""The ledger on a Valkey cluster of three nodes: each team's keys lie in one slot, and every script stays in it."""

import time
from collections.abc import AsyncIterator, Iterator

import pytest
import redis

from extproc.budget.ledger import Admitted, TopUp
from extproc.budget.redis import RedisLedger
from extproc.budget.windows import windows_at
from extproc.snapshot import shared
from extproc.snapshot.overrides import TeamOverride
from extproc.state.redis_py import connect
from tests.envoy.harness import free_port

from .builders import HOUR_MS, NOON_MS, reservation, settlement
from .conftest import Valkey, wait_for_ping

WINDOWS = windows_at(NOON_MS)
TEAMS = [f"team-{name}" for name in ("search", "support", "billing", "a", "b", "c", "x:y", "über.graph/1", "z@z")]


def cluster_node(port: int, bus_port: int) -> Valkey:
    return Valkey(
        "--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--cluster-port", str(bus_port)
    )  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[int]]:
    """Ports of three nodes that share the slots; skips where a cluster cannot be formed."""
    ports = [free_port() for _ in range(6)]
    nodes = [cluster_node(port, bus) for port, bus in zip(ports[:3], ports[3:], strict=True)]
    try:
        for node in nodes:
            node.start()
        clients = [redis.Redis(port=port) for port in ports[:3]]
        for i, client in enumerate(clients):
            wait_for_ping(client)
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", i * 5461, 16383 if i == 2 else i * 5461 + 5460)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0], ports[3])
        if not all(settles(client) for client in clients):
            pytest.skip("the cluster's nodes do not find each other on this machine")
        yield ports[:3]
    finally:
        for node in nodes:
            node.close()


def settles(client: "redis.Redis") -> bool:
    for _ in range(500):
        info = client.execute_command("CLUSTER", "INFO")
        if "cluster_state:ok" in str(info) and "cluster_known_nodes:3" in str(info):
            return True
        if isinstance(info, dict) and (info.get("cluster_state"), info.get("cluster_known_nodes")) == ("ok", "3"):
            return True
        time.sleep(0.04)
    return False


@pytest.fixture
async def ledger(cluster: list[int]) -> AsyncIterator[RedisLedger]:
    client = connect(f"redis+cluster://127.0.0.1:{cluster[0]}", timeout_s=10)
    yield RedisLedger(client)
    await client.aclose()


async def test_every_script_stays_in_its_teams_slot(ledger: RedisLedger, cluster: list[int]) -> None:
    for team in TEAMS:
        for hold in ("settled", "released", "expired", "open"):
            lease_ms = 1 if hold == "expired" else HOUR_MS
            answer = await ledger.reserve(reservation(team, hold, lease_ms=lease_ms, requests_per_minute=9))
            assert isinstance(answer, Admitted)
        await ledger.settle(settlement(team, "settled", 42, thresholds_pct=(80.0,)))
        await ledger.release(team, "released")
        assert [row.hold_id for row in await ledger.expire(team, NOON_MS + 1)] == ["expired"]
        await ledger.top_up(TopUp(team_id=team, grant_id="g", window="daily", windows=WINDOWS, unit="tokens", amount=1))
        daily = (await ledger.usage(team, NOON_MS, WINDOWS)).standing.daily
        assert (daily.used_tokens, daily.held_tokens, daily.topup_tokens) == (142, 100, 1)

    slots: dict[bytes, set[int]] = {}
    nodes_with_keys = 0
    for port in cluster:
        node = redis.Redis(port=port)
        keys = node.keys("gw:*")
        nodes_with_keys += bool(keys)
        for key in keys:
            slots.setdefault(key[: key.index(b"}") + 1], set()).add(node.execute_command("CLUSTER", "KEYSLOT", key))
        node.close()
    assert nodes_with_keys == 3
    assert {team: len(found) for team, found in slots.items()} == {f"gw:{{{team}}}".encode(): 1 for team in TEAMS}


async def test_a_node_without_the_script_is_sent_it(ledger: RedisLedger, cluster: list[int]) -> None:
    for port in cluster:
        node = redis.Redis(port=port)
        node.script_flush()
        node.close()
    for team in TEAMS:
        assert isinstance(await ledger.reserve(reservation(team, "after-flush")), Admitted)


async def test_changes_at_run_time_and_their_log_lie_in_one_slot(cluster: list[int]) -> None:
    client = connect(f"redis+cluster://127.0.0.1:{cluster[0]}", timeout_s=10)
    assert await shared.change(client, 0, "a", TeamOverride(changes={"models": ["x"]}), {"n": 1}) == 1
    assert await shared.record_once(client, "a:k", {"n": 2}) is None
    assert await shared.record_once(client, "a:k", {"n": 3}) == {"n": 2}
    assert await shared.read(client) == shared.Overrides(1, {"a": TeamOverride(changes={"models": ["x"]})})
    assert [entry for _, entry in await shared.entries(client, None, 10)] == [{"n": 2}, {"n": 1}]
    await client.aclose()
