"""The store on a real Valkey: entries, their end, their sizes, flights, and what is told of them."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.cache.counts import Counts
from extproc.cache.entry import Entry
from extproc.cache.key import SHARED, Key, key_of, partition_of
from extproc.cache.ports import Flight, StoreUnavailable, Stowed
from extproc.cache.redis import RedisStore
from extproc.cache.ticket import Ticket
from extproc.state.pipe import open_state
from extproc.state.redis_py import connect
from tests.budget.conftest import Valkey, own_valkey
from tests.cache.builders import NOW_MS, chat, entry, key, team_name

__all__ = ["own_valkey"]

TTL_MS = 3_600_000
MOST = 10**9


@pytest.fixture(params=["pipe", "redis-py"])
async def store(request: pytest.FixtureRequest, valkey: Valkey) -> AsyncIterator[RedisStore]:
    client: Any = (open_state if request.param == "pipe" else connect)(valkey.url, timeout_s=5)
    yield RedisStore(client)
    await client.aclose()


@pytest.fixture
def team() -> str:
    return team_name()


async def keep(store: RedisStore, known: Key, text: str = "Hello.", **options: Any) -> Stowed:
    given_: dict[str, Any] = {"ttl_ms": TTL_MS, "most_bytes": MOST, "flight": "", "stored_ms": NOW_MS} | options
    made = entry(known, text, stored_ms=given_["stored_ms"])
    ticket = Ticket(known, made.team_id, NOW_MS, given_["flight"])
    return await store.store(made, ticket, given_["ttl_ms"], given_["most_bytes"])


async def find(store: RedisStore, known: Key, now_ms: int = NOW_MS) -> Entry | Flight:
    return await store.look_up(known, now_ms, "", 0)


async def test_there_and_back(store: RedisStore, team: str) -> None:
    known = key("hi", team=team)
    assert await find(store, known) is Flight.FOLLOW
    assert await keep(store, known) == Stowed("kept")
    assert await find(store, known) == entry(known, "Hello.")
    await keep(store, known, "Hello again.")
    found = await find(store, known)
    assert isinstance(found, Entry)
    assert b"Hello again." in found.answer
    assert (await store.size(known.partition, NOW_MS))[0] == 1


async def test_by_digest_within_the_context_only(store: RedisStore, team: str) -> None:
    one, two, other = key("one", team=team), key("two", team=team), key("one", team=team, seed=1)
    await keep(store, one)
    found = await store.get(two, one.digest, NOW_MS)
    assert found is not None
    assert found.key == one
    assert await store.get(other, one.digest, NOW_MS) is None


async def test_the_end(store: RedisStore, team: str) -> None:
    known = key("hi", team=team)
    await keep(store, known, ttl_ms=60)
    assert isinstance(await find(store, known), Entry)
    await asyncio.sleep(0.1)
    assert await find(store, known) is Flight.FOLLOW
    assert await store.size(known.partition, NOW_MS + 61) == (0, 0)


async def test_least_recently_used_first(store: RedisStore, team: str) -> None:
    keys = [key(str(number), team=team) for number in range(4)]
    for at, known in enumerate(keys[:3]):
        await keep(store, known, stored_ms=NOW_MS + at)
    _, size = await store.size(keys[0].partition, NOW_MS)
    await find(store, keys[0], NOW_MS + 10)
    assert await keep(store, keys[3], most_bytes=size, stored_ms=NOW_MS + 20) == Stowed("kept", evicted=1)
    found = [isinstance(await find(store, known), Entry) for known in keys]
    assert found == [True, False, True, True]
    assert (await store.size(keys[0].partition, NOW_MS))[1] <= size


async def test_one_that_alone_is_too_large(store: RedisStore, team: str) -> None:
    known, big = key("small", team=team), key("big", team=team)
    await keep(store, known)
    assert (await keep(store, big, "x" * 5000, most_bytes=2000)).outcome == "oversized"
    assert isinstance(await find(store, known), Entry), "nothing had to go for it"


async def test_sums_that_lost_their_entries(store: RedisStore, team: str) -> None:
    """Someone deleted keys by hand: the sum is put right, and no call hangs."""
    known = key("hi", team=team)
    await keep(store, known)
    base = f"gw:cache:{{{known.partition}}}"
    await store._client.execute_command("DEL", f"{base}:used", f"{base}:about")
    assert (await keep(store, key("ho", team=team), most_bytes=1500)).outcome == "kept"
    assert (await store.size(known.partition, NOW_MS))[1] < 1500


async def test_garbage_is_no_answer_and_gives_way(store: RedisStore, team: str) -> None:
    known = key("hi", team=team)
    await store._client.execute_command("SET", f"gw:cache:{{{known.partition}}}:entry:{known.digest}", b"\xc1garbage")
    assert await find(store, known) is Flight.LEAD
    await keep(store, known)
    assert isinstance(await find(store, known), Entry)


class TestFlights:
    async def test_one_leads(self, store: RedisStore, team: str) -> None:
        known = key("hi", team=team)
        answers = await asyncio.gather(*(store.look_up(known, NOW_MS, f"r{at}", 5000) for at in range(20)))
        assert sorted(answer.value for answer in answers if isinstance(answer, Flight)) == ["follow"] * 19 + ["lead"]

    async def test_one_that_comes_again_leads_again(self, store: RedisStore, team: str) -> None:
        """Its worker died: it must not wait for itself."""
        known = key("hi", team=team)
        assert await store.look_up(known, NOW_MS, "r1", 5000) is Flight.LEAD
        assert await store.look_up(known, NOW_MS, "r1", 5000) is Flight.LEAD
        assert await store.look_up(known, NOW_MS, "r2", 5000) is Flight.FOLLOW

    async def test_it_ends_with_the_entry(self, store: RedisStore, team: str) -> None:
        known = key("hi", team=team)
        await store.look_up(known, NOW_MS, "r1", 5000)
        await keep(store, known, flight="r1", ttl_ms=50)
        await asyncio.sleep(0.08)
        assert await store.look_up(known, NOW_MS, "r2", 5000) is Flight.LEAD

    async def test_it_ends_when_its_leader_gives_up(self, store: RedisStore, team: str) -> None:
        known = key("hi", team=team)
        await store.look_up(known, NOW_MS, "r1", 5000)
        await store.land(known, "another")
        assert await store.look_up(known, NOW_MS, "r2", 5000) is Flight.FOLLOW
        await store.land(known, "r1")
        assert await store.look_up(known, NOW_MS, "r2", 5000) is Flight.LEAD

    async def test_it_ends_with_an_answer_that_is_not_kept(self, store: RedisStore, team: str) -> None:
        known = key("hi", team=team)
        await store.look_up(known, NOW_MS, "r1", 5000)
        assert (await keep(store, known, flight="r1", most_bytes=10)).outcome == "oversized"
        assert await store.look_up(known, NOW_MS, "r2", 5000) is Flight.LEAD

    async def test_it_ends_by_itself(self, store: RedisStore, team: str) -> None:
        known = key("hi", team=team)
        await store.look_up(known, NOW_MS, "r1", 40)
        await asyncio.sleep(0.08)
        assert await store.look_up(known, NOW_MS, "r2", 40) is Flight.LEAD


async def test_news_of_entries(store: RedisStore, team: str) -> None:
    """For the indexes of similar requests: in order, each once, from any place on."""
    seen = await store.stored_after()
    last = seen[-1][0] if seen else "0"
    text, image = key("text", team=team), key([{"type": "image_url", "image_url": {"url": "x"}}], team=team)
    await keep(store, text)
    await keep(store, image)
    await keep(store, key("more", team=team))
    news = [(at, each) for at, each in await store.stored_after(last) if each.key.partition == text.partition]
    assert [each.key.text for _, each in news] == ["text", "more"], "what has no text is not told of"
    assert (news[0][1].model, news[0][1].until_ms) == ("gpt", NOW_MS + TTL_MS)
    assert [each.key.text for _, each in await store.stored_after(news[0][0])][-1] == "more"
    assert text.partition in await store.partitions()


async def test_a_store_that_is_away(own_valkey: Valkey) -> None:
    client = open_state(own_valkey.url, timeout_s=0.2)
    store, known = RedisStore(client), key("hi")
    own_valkey.kill()
    for call in (find(store, known), keep(store, known), store.land(known, "x"), store.partitions()):
        with pytest.raises(StoreUnavailable):
            await call
    await client.aclose()


async def test_a_store_that_is_slow(own_valkey: Valkey) -> None:
    """Who waits for a look-up waits no longer than the client that is for them."""
    client, quick = open_state(own_valkey.url, timeout_s=10), open_state(own_valkey.url, timeout_s=0.05)
    known = key("hi")
    await find(RedisStore(client), known)
    own_valkey.signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await find(RedisStore(client, quick), known)
    assert time.monotonic() - began < 9
    own_valkey.signal(signal.SIGCONT)
    for each in (client, quick):
        await each.aclose()


async def test_a_pause_of_ours_is_not_the_stores(valkey: Valkey, team: str) -> None:
    """As when a worker reads a body of many MiB, or has to wait for a processor: the answer has come meanwhile."""
    client, quick = (open_state(valkey.url, timeout_s=limit_s) for limit_s in (10, 0.2))
    store, known = RedisStore(client, quick), key("hi", team=team)
    await until_found(store, known)
    looking = asyncio.create_task(find(store, known))
    for _ in range(3):  # it is asked, and sent
        await asyncio.sleep(0)
    time.sleep(0.5)  # noqa: ASYNC251 - the event loop is to stand still
    assert await looking is Flight.FOLLOW
    for each in (client, quick):
        await each.aclose()


async def until_found(store: RedisStore, known: Key) -> None:
    """However long a busy machine takes to connect."""
    async with asyncio.timeout(20):
        while True:
            with suppress(StoreUnavailable):
                await find(store, known)
                return


async def test_what_was_counted_is_added_once_whoever_knows_of_it(own_valkey: Valkey) -> None:
    """The server has the batch, but the process ended its wait for the answer: it is handed on again at the end."""
    client = open_state(own_valkey.url, timeout_s=10)
    store, counts = RedisStore(client), Counts()
    counts.add("a", "hits", 2)
    await store.hand_on("replica", counts)
    own_valkey.signal(signal.SIGSTOP)
    counts.add("a", "hits", 3)
    counts.add("a", "misses")
    handing = asyncio.create_task(store.hand_on("replica", counts))
    await asyncio.sleep(0.05)  # sent, and not answered
    handing.cancel()
    await asyncio.gather(handing, return_exceptions=True)
    own_valkey.signal(signal.SIGCONT)
    counts.add("a", "hits", 10)
    await store.hand_on("replica", counts)
    assert await store.counts("replica") == {"a|hits|": 15, "a|misses|": 1}
    await client.aclose()


async def test_a_flushed_server_is_given_its_scripts_again(own_valkey: Valkey) -> None:
    client = open_state(own_valkey.url, timeout_s=5)
    store, known = RedisStore(client), key("hi")
    await keep(store, known)
    await client.execute_command("SCRIPT", "FLUSH")
    assert isinstance(await find(store, known), Entry)
    await client.aclose()


# --- never across teams: random teams, prompts and configurations, on the real store ----------------------------------

_ASKED = st.tuples(
    st.sampled_from(["a", "b", "c"]),
    st.booleans(),  # does the team share?
    st.sampled_from(["model:gpt", "model:claude", "auto:simple"]),
    st.sampled_from(["hi", "ho", [{"type": "image_url", "image_url": {"url": "x"}}]]),
    st.sampled_from([{}, {"tools": [{"type": "function"}]}, {"response_format": {"type": "text"}}, {"temperature": 0}]),
    st.sampled_from([[], [{"role": "system", "content": "x"}], [{"role": "system", "content": "y"}]]),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_ASKED, min_size=2, max_size=25))
def test_an_answer_reaches_nobody_it_was_not_for(valkey: Valkey, asked: list[Any]) -> None:
    """Each answer carries what it answers; whatever is found, by exact key or by digest, is of the very same kind."""
    suffix = team_name()

    def known_as(each: Any) -> Key:
        team, shared, subject, content, more, turns = each
        partition = f"{SHARED}{suffix}" if shared else partition_of(team + suffix, shared=False)
        messages = [*turns, {"role": "user", "content": content}]
        return key_of(partition, subject, chat(**({"content": "", "messages": messages} | more)))

    async def run() -> None:
        client = open_state(valkey.url, timeout_s=5)
        store = RedisStore(client)
        kept: dict[str, tuple[Any, ...]] = {}
        for each in asked:
            known, mark = known_as(each), ("*" if each[1] else each[0], *map(str, each[2:]))
            found = await store.look_up(known, NOW_MS, "", 0)
            if isinstance(found, Entry):
                assert kept[found.answer.decode()] == mark
            for other in asked:
                similar = await store.get(known, known_as(other).digest, NOW_MS)
                if similar is not None:
                    theirs = kept[similar.answer.decode()]
                    assert (theirs[:2], theirs[3:]) == (mark[:2], mark[3:]), "only the last text may differ"
            answer = f"answer {len(kept)}"
            kept[answer] = mark
            made = entry(known, answer=answer.encode())
            await store.store(made, Ticket(known, each[0], NOW_MS), TTL_MS, MOST)
        await client.aclose()

    asyncio.run(run())
