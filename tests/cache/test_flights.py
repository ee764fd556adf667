"""Waits for the same request in flight, where it gets difficult: all leave, the store is slow. On a real Valkey."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from extproc.cache.entry import Entry
from extproc.cache.flights import Flights
from extproc.cache.key import Key
from extproc.cache.ports import Flight, StoreUnavailable
from extproc.cache.redis import RedisStore
from extproc.cache.ticket import Ticket
from extproc.state.pipe import Pipe, open_state
from tests.budget.conftest import Valkey
from tests.cache.builders import NOW_MS, entry, key, question, team_name

LIMIT_S = 5


class Store:
    """The store, whose look-ups fail where a test says so: one that took too long, on a busy machine. `asked`: how many
    there were."""

    def __init__(self, store: RedisStore) -> None:
        self.real = store
        self.fails: list[bool] = []
        self.led, self.landed = asyncio.Event(), asyncio.Event()
        self.says = asyncio.Event()  # what it found
        self.says.set()
        self.lands = asyncio.Event()  # that it landed a flight
        self.lands.set()
        self.asked = 0
        self._asked = asyncio.Event()

    async def look_up(self, *asked: Any) -> Entry | Flight:
        self.asked += 1
        self._asked.set()
        if self.fails and self.fails.pop(0):
            raise StoreUnavailable("slow")
        found = await self.real.look_up(*asked)
        if found is Flight.LEAD:
            self.led.set()
        await self.says.wait()
        return found

    async def land(self, known: Key, flight: str) -> None:
        await self.real.land(known, flight)
        self.landed.set()
        await self.lands.wait()

    async def keep(self, known: Key) -> None:
        await self.real.store(entry(known), Ticket(known, known.partition, NOW_MS, "leader"), 10**6, 10**9)

    async def asked_again(self, times: int) -> None:
        """Wait until it was asked so many times more, and once more, so that the last of them has ended."""
        await self.asked_until(self.asked + times + 1)

    async def asked_until(self, number: int) -> None:
        async with asyncio.timeout(20):
            while self.asked < number:
                self._asked.clear()
                await self._asked.wait()


@pytest.fixture
def known() -> Key:
    return key("hi", team=team_name())


@pytest.fixture
async def store(valkey: Valkey, known: Key) -> AsyncIterator[Any]:
    """With a leader on its way."""
    pipe = open_state(valkey.url, timeout_s=5)
    assert isinstance(pipe, Pipe)
    store = Store(RedisStore(pipe))
    assert await store.real.look_up(known, NOW_MS, "leader", 60_000) is Flight.LEAD
    yield store
    await pipe.aclose()


def waits(flights: Flights, known: Key, number: int = 1) -> list[asyncio.Task[Entry | str]]:
    return [asyncio.create_task(flights.wait(question(known), LIMIT_S)) for _ in range(number)]


async def test_a_look_up_that_failed_is_borne_and_so_is_a_later_one(store: Any, known: Key) -> None:
    store.fails = [True, False, True, False, False, True]
    waiting = waits(Flights(store), known, 3)
    await store.asked_again(6)
    await store.keep(known)
    assert all(isinstance(found, Entry) for found in await asyncio.gather(*waiting))


async def test_two_in_a_row_end_the_wait_of_all_and_of_nobody_later(store: Any, known: Key) -> None:
    store.fails = [False, True, True]
    flights = Flights(store)
    ended = await asyncio.gather(*waits(flights, known, 3), return_exceptions=True)
    assert [type(each) for each in ended] == [StoreUnavailable] * 3
    assert store.asked == 3
    await store.keep(known)
    (later,) = waits(flights, known)
    assert isinstance(await later, Entry)


@pytest.mark.parametrize("found", ["an answer", "nothing", "no store"])
async def test_what_was_found_when_all_had_left_is_nobodys(store: Any, known: Key, found: str) -> None:
    """An answer may have been deleted since, and the store be back; nor is there a second leader beside the first."""
    flights = Flights(store)
    (left,) = waits(flights, known)
    await store.asked_again(0)
    asked = store.asked
    if found == "an answer":
        await store.keep(known)
    if found == "no store":
        store.fails = [True, True]
    left.cancel()
    await store.asked_until(asked + (2 if found == "no store" else 1))
    await asyncio.sleep(0.05)  # its answer
    await store.real.forget(known.partition, [known.digest])
    await store.real.look_up(known, NOW_MS, "leader", 60_000)
    (later,) = waits(flights, known)
    await store.asked_again(1)
    assert not later.done()
    await store.real.land(known, "leader")
    assert await later, "it has the lead now"


async def leave_with_the_lead(flights: Flights, store: Any, known: Key) -> None:
    """The only one who waits leaves while the store's word that it has the lead is on its way."""
    (left,) = waits(flights, known)
    store.says.clear()
    await store.real.land(known, "leader")
    async with asyncio.timeout(20):
        await store.led.wait()
    left.cancel()
    await asyncio.wait({left})


async def test_a_lead_that_was_taken_as_the_last_left_is_given_back(store: Any, known: Key) -> None:
    await leave_with_the_lead(Flights(store), store, known)
    store.says.set()
    async with asyncio.timeout(20):
        await store.landed.wait()
    assert await store.real.look_up(known, NOW_MS, "another", 60_000) is Flight.LEAD


async def test_a_leader_that_ended_without_a_word_gives_way(store: Any, known: Key) -> None:
    """Its client left while Envoy was being told of its ticket."""
    waiting = waits(Flights(store), known, 2)
    await store.asked_again(0)
    await store.real.left(known.partition, "leader")
    done, (follower,) = await asyncio.wait(waiting, timeout=4, return_when=asyncio.FIRST_COMPLETED)
    (led,) = [each.result() for each in done]
    assert led
    assert await store.real.look_up(known, NOW_MS, "another", 60_000) is Flight.FOLLOW
    await store.keep(known)
    assert isinstance(await follower, Entry)


async def test_who_comes_while_it_is_given_back_does_not_lead_without_a_flight(store: Any, known: Key) -> None:
    flights = Flights(store)
    await leave_with_the_lead(flights, store, known)
    store.lands.clear()
    store.says.set()
    async with asyncio.timeout(20):
        await store.landed.wait()
    (came,) = waits(flights, known)
    await asyncio.sleep(0)
    store.lands.set()
    assert await came
    assert await store.real.look_up(known, NOW_MS, "another", 60_000) is Flight.FOLLOW, "its flight is there"
