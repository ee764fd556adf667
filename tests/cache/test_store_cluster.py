"""The store on a Valkey cluster: a partition's entries lie in one slot, what is shared by all in slots of its own."""

from typing import Any

import redis

from extproc.cache.counts import Batch
from extproc.cache.entry import Entry
from extproc.cache.key import Key
from extproc.cache.ports import Flight
from extproc.cache.redis import RedisStore
from extproc.state.pipe import open_state
from tests.budget.test_ledger_cluster import cluster
from tests.cache.builders import NOW_MS, entry, key
from tests.cache.test_store import find, keep

__all__ = ["cluster"]

TEAMS = [f"team-{number}" for number in range(12)]


async def test_every_call_works_and_a_partition_stays_in_its_slot(cluster: list[int]) -> None:
    client: Any = open_state(f"redis+cluster://127.0.0.1:{cluster[0]}", timeout_s=10)
    store = RedisStore(client)
    known = [key("hi", team=team) for team in TEAMS]
    for one in known:
        assert await find(store, one) is Flight.FOLLOW
        assert (await keep(store, one)).outcome == "kept"
        assert await find(store, one) == entry(one, "Hello.")
        assert await store.get(one, one.digest, NOW_MS) == entry(one, "Hello.")
        await store.add_check(one.partition, 3, wrong=True)
        assert (await store.tally(one.partition)).wrong[3] == 1
        assert [about.digest async for about in store.about(one.partition)] == [one.digest]
        assert (await store.size(one.partition, NOW_MS))[0] == 1
    await store.add_counts("replica", Batch("first", {"hits a": 2}))
    assert (await store.counts("replica"), await store.replicas()) == ({"hits a": 2}, {"replica"})
    assert await store.partitions() == {one.partition for one in known}
    assert {stored.key.digest for _, stored in await store.stored_after()} == {one.digest for one in known}

    slots = slots_of(cluster)
    assert len(slots) == len(TEAMS)
    assert {len(found) for found in slots.values()} == {1}
    assert len({slot for found in slots.values() for slot in found}) > 1, "not all in one place"

    for one in known[1:]:
        await store.purge(one.partition, "*", NOW_MS)
        assert await store.forget(one.partition, [one.digest]) == 1
    assert [await is_there(store, one) for one in known] == [True] + [False] * (len(TEAMS) - 1)
    await client.aclose()


async def is_there(store: RedisStore, one: Key) -> bool:
    return isinstance(await find(store, one), Entry)


def slots_of(ports: list[int]) -> dict[bytes, set[int]]:
    """The slots of each partition's keys."""
    slots: dict[bytes, set[int]] = {}
    for port in ports:
        node = redis.Redis(port=port)
        for name in node.keys("gw:cache:{*"):
            slots.setdefault(name[: name.index(b"}") + 1], set()).add(node.execute_command("CLUSTER", "KEYSLOT", name))
        node.close()
    return slots
