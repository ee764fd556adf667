"""The walk's step: hits, misses, waits for the same request in flight, a store that fails. On a real Valkey."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from extproc.cache.answers import AWAY_MS, Answers
from extproc.cache.counts import Counts
from extproc.cache.hit import Hit, Miss, Question
from extproc.cache.key import Key
from extproc.cache.policy import Terms
from extproc.cache.recorder import Recorder
from extproc.cache.redis import RedisStore
from extproc.cache.tape import Tape
from extproc.cache.ticket import Ticket
from extproc.records import Outcome, Usage
from extproc.settings import Cache
from extproc.state.pipe import Pipe, open_state
from tests.budget.conftest import Valkey, own_valkey
from tests.cache.builders import NOW_MS, TARGET, completion, entry, key, question, team_name

__all__ = ["own_valkey"]

SETTINGS = Cache(exact=True, coalesce_wait=5)


class Similarly:
    """A semantic step that finds what it is told."""

    def __init__(self) -> None:
        self.digest: str | None = None
        self.asked: list[Key] = []
        self.missed: list[str] = []

    async def find(self, known: Key, team_id: str, now_ms: int) -> str | None:
        self.asked.append(known)
        return self.digest

    def to_check(self, known: Key) -> bool:
        return False

    def gone(self, digest: str) -> None:
        self.missed.append(digest)


class Worker:
    """One worker's cache."""

    def __init__(self, client: Any, settings: Cache = SETTINGS) -> None:
        self.store = RedisStore(client)
        self.counts, self.similarly = Counts(), Similarly()
        self.settings = settings
        self.answers = Answers(lambda: self.settings, self.store, self.counts, self.similarly)
        self.recorder = Recorder(lambda: self.settings, self.store, self.counts, lambda: NOW_MS / 1000)

    async def ask(self, asked: Question) -> Hit | Miss:
        return await self.answers.look_up(asked)

    async def keep(self, ticket: Ticket | None, text: str = "Hello.", **outcome: Any) -> None:
        """What the exchange does at the end of an answer."""
        tape = Tape(ticket, self.recorder, 10**6)
        given = {"usage": Usage(input_tokens=9, output_tokens=4), "complete": True} | outcome
        tape.whole(json.dumps(completion(text)).encode(), TARGET, Outcome(**given), gateway_fields=False)
        await self.recorder.drain()

    def counted(self) -> dict[str, int]:
        return {field.split("|", 1)[1]: number for field, number in self.counts.take().items()}


@pytest.fixture
async def client(valkey: Valkey) -> AsyncIterator[Pipe]:
    pipe: Any = open_state(valkey.url, timeout_s=5)
    yield pipe
    await pipe.aclose()


@pytest.fixture
def worker(client: Pipe) -> Worker:
    return Worker(client)


@pytest.fixture
def known() -> Key:
    return key("hi", team=team_name())


async def test_a_miss_and_then_hits(worker: Worker, known: Key) -> None:
    missed = await worker.ask(question(known))
    assert isinstance(missed, Miss)
    assert (missed.status, missed.reason) == ("miss", "")
    await worker.keep(missed.ticket)
    hit = await worker.ask(question(known, now_ms=NOW_MS + 61_500))
    assert isinstance(hit, Hit)
    assert (hit.status, hit.age_s, hit.entry.usage) == ("hit", 61, Usage(input_tokens=9, output_tokens=4))
    counted = worker.counted()
    assert counted == {
        "misses|": 1,
        "stores|": 1,
        "evictions|": 0,
        "hits|": 1,
        "saved_tokens|": 13,
        "saved_nano_usd|": 25_000,
    }


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"now_ms": NOW_MS + 10_000, "terms": Terms(max_age_s=10)}, "hit"),
        ({"now_ms": NOW_MS + 11_000, "terms": Terms(max_age_s=10)}, "miss"),
        ({"models": frozenset({"claude"})}, "miss"),
        ({"terms": Terms("no_cache", read=False)}, "bypass"),
    ],
)
async def test_an_entry_that_will_not_do(worker: Worker, known: Key, changes: dict[str, Any], status: str) -> None:
    """Too old for this client, of a model its team may not use, or not wanted: the next answer takes its place."""
    await worker.store.store(entry(known), Ticket(known, known.partition, NOW_MS), 10**6, 10**9)
    found = await worker.ask(question(known, **changes))
    assert found.status == status
    if isinstance(found, Miss):
        assert found.ticket is not None
        await worker.keep(found.ticket, "A new one.")
        hit = await worker.ask(question(known))
        assert isinstance(hit, Hit)
        assert b"A new one." in hit.entry.answer


async def test_a_shorter_ttl_holds_for_what_was_kept_before(worker: Worker, known: Key) -> None:
    await worker.store.store(entry(known), Ticket(known, known.partition, NOW_MS), 10**6, 10**9)
    worker.settings = Cache(exact=True, ttl=5)
    assert (await worker.ask(question(known, now_ms=NOW_MS + 5_000))).status == "hit"
    assert (await worker.ask(question(known, now_ms=NOW_MS + 6_000))).status == "miss"


async def test_without_leave_to_write_there_is_no_ticket(worker: Worker, known: Key) -> None:
    found = await worker.ask(question(known, terms=Terms(write=False)))
    assert isinstance(found, Miss)
    assert (found.status, found.ticket) == ("miss", None)
    assert (await worker.ask(question(known))).ticket.flight, "nor did it take the lead"  # type: ignore[union-attr]


class TestSimilar:
    async def test_only_after_an_exact_miss_and_where_the_terms_allow_it(self, worker: Worker, known: Key) -> None:
        await worker.ask(question(known))
        assert worker.similarly.asked == []
        await worker.ask(question(known, terms=Terms(similar=True, write=False)))
        assert worker.similarly.asked == [known]

    async def test_a_hit_lands_the_flight(self, worker: Worker, known: Key) -> None:
        other = key("hey", team=known.partition.removeprefix("team:"))
        await worker.store.store(entry(other), Ticket(other, "t", NOW_MS), 10**6, 10**9)
        worker.similarly.digest = other.digest
        hit = await worker.ask(question(known, terms=Terms(similar=True)))
        assert isinstance(hit, Hit)
        assert (hit.status, hit.entry.key) == ("semantic-hit", other)
        worker.similarly.digest = None
        assert (await worker.ask(question(known, terms=Terms(similar=True)))).ticket.flight  # type: ignore[union-attr]

    async def test_never_over_contexts_whatever_the_index_says(self, worker: Worker, known: Key) -> None:
        for other in (key("hey", team=team_name()), key("hey", team=known.partition.removeprefix("team:"), seed=1)):
            await worker.store.store(entry(other), Ticket(other, "t", NOW_MS), 10**6, 10**9)
            worker.similarly.digest = other.digest
            assert (await worker.ask(question(known, terms=Terms(similar=True, write=False)))).status == "miss"


class TestSingleFlight:
    async def test_one_goes_the_others_wait(self, client: Pipe, known: Key) -> None:
        """Over two workers: twenty of the same at once make one ticket with a flight, and nineteen hits."""
        workers = [Worker(client), Worker(client)]
        asks = [asyncio.create_task(workers[at % 2].ask(question(known))) for at in range(20)]
        done, waiting = await asyncio.wait(asks, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        missed = done.pop().result()
        assert isinstance(missed, Miss)
        await workers[0].keep(missed.ticket)
        found = await asyncio.gather(*waiting)
        assert [each.status for each in found] == ["hit"] * 19
        assert sum(each.counted().get("coalesced|", 0) for each in workers) == 19

    @pytest.mark.parametrize("how", ["gives up", "fails", "is truncated"])
    async def test_a_leader_that_brings_nothing_is_followed_by_one(self, client: Pipe, known: Key, how: str) -> None:
        workers = [Worker(client), Worker(client)]
        first = await workers[0].ask(question(known))
        assert isinstance(first, Miss)
        asks = [asyncio.create_task(workers[at % 2].ask(question(known))) for at in range(10)]
        await asyncio.sleep(0.1)
        if how == "gives up":
            Tape(first.ticket, workers[0].recorder, 10).give_up()
            await workers[0].recorder.drain()
        elif how == "fails":
            await workers[0].keep(first.ticket, complete=False)
        else:
            await workers[0].keep(first.ticket, "")
        done, waiting = await asyncio.wait(asks, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        second = done.pop().result()
        assert isinstance(second, Miss)
        assert second.ticket is not None
        assert second.ticket.flight
        await workers[1].keep(second.ticket)
        assert {each.status for each in await asyncio.gather(*waiting)} == {"hit"}

    async def test_the_wait_ends(self, client: Pipe, known: Key) -> None:
        worker = Worker(client, Cache(exact=True, coalesce_wait=0.3))
        await worker.ask(question(known))
        began = time.monotonic()
        found = await asyncio.gather(*(worker.ask(question(known)) for _ in range(5)))
        assert {each.status for each in found} == {"miss"}
        assert time.monotonic() - began < 4
        assert all(isinstance(each, Miss) and each.ticket for each in found), "what comes of them is kept all the same"

    async def test_no_wait_if_so_configured(self, client: Pipe, known: Key) -> None:
        worker = Worker(client, Cache(exact=True, coalesce_wait=0))
        found = await asyncio.gather(*(worker.ask(question(known)) for _ in range(5)))
        assert [each.ticket.flight for each in found if isinstance(each, Miss) and each.ticket] == [""] * 5

    async def test_a_client_that_leaves_takes_nobody_with_it(self, client: Pipe, known: Key) -> None:
        worker = Worker(client)
        first = await worker.ask(question(known))
        asks = [asyncio.create_task(worker.ask(question(known))) for _ in range(4)]
        await asyncio.sleep(0.1)
        asks[0].cancel()  # the one whose poll it is
        await asyncio.sleep(0.06)
        assert isinstance(first, Miss)
        await worker.keep(first.ticket)
        assert [each.status for each in await asyncio.gather(*asks[1:])] == ["hit"] * 3

    async def test_when_all_have_left_nobody_keeps_the_lead(self, client: Pipe, known: Key) -> None:
        worker = Worker(client)
        first = await worker.ask(question(known))
        ask = asyncio.create_task(worker.ask(question(known)))
        await asyncio.sleep(0.1)
        ask.cancel()
        assert isinstance(first, Miss)
        assert first.ticket is not None
        await worker.store.land(known, first.ticket.flight)
        await asyncio.sleep(0.15)
        again = await worker.ask(question(known))
        assert isinstance(again, Miss)
        assert again.ticket is not None
        assert again.ticket.flight


class TestWithoutAStore:
    async def test_requests_go_on_and_the_store_is_left_alone_for_a_second(self, own_valkey: Valkey) -> None:
        client: Any = open_state(own_valkey.url, timeout_s=5)
        worker, known = Worker(client), key("hi")
        own_valkey.kill()
        found = [await worker.ask(question(known, now_ms=NOW_MS + at)) for at in (0, 1, 2, AWAY_MS)]
        misses = [each for each in found if isinstance(each, Miss)]
        assert [(each.status, each.reason) for each in misses] == [("bypass", "unavailable")] * 4
        assert [each.ticket is not None for each in misses] == [True, True, False, False], "of those that asked"
        assert worker.counted() == {"errors|look_up": 2, "bypasses|unavailable": 4}
        own_valkey.start()
        assert (await worker.ask(question(known, now_ms=NOW_MS + 1 + AWAY_MS))).status == "miss"
        await client.aclose()

    async def test_what_failed_once_is_asked_again_at_once(self, own_valkey: Valkey) -> None:
        """Ten that were under way together are one failure. After an answer it takes two again."""
        client: Any = open_state(own_valkey.url, timeout_s=5)
        worker, known = Worker(client), key("hi")
        for _ in range(2):
            own_valkey.kill()
            found = await asyncio.gather(*(worker.ask(question(known)) for _ in range(10)))
            assert {each.status for each in found} == {"bypass"}
            own_valkey.start()
            assert (await worker.ask(question(key("ho")))).status == "miss"
        assert worker.counted() == {"errors|look_up": 20, "bypasses|unavailable": 20, "misses|": 2}
        await client.aclose()

    async def test_an_answer_that_cannot_be_kept(self, own_valkey: Valkey) -> None:
        client: Any = open_state(own_valkey.url, timeout_s=0.2)
        worker, known = Worker(client), key("hi")
        missed = await worker.ask(question(known))
        assert isinstance(missed, Miss)
        own_valkey.kill()
        await worker.keep(missed.ticket)
        assert worker.counted() == {"misses|": 1, "errors|store": 1}
        await client.aclose()


class TestTape:
    async def test_a_stream_that_is_too_long_is_let_go_of(self, worker: Worker, known: Key) -> None:
        missed = await worker.ask(question(known))
        assert isinstance(missed, Miss)
        tape = Tape(missed.ticket, worker.recorder, 10)
        tape.piece(b"x" * 6)
        tape.piece(b"x" * 6)
        tape.stream(TARGET, Outcome(complete=True, usage=Usage(1, 1)))
        await worker.recorder.drain()
        again = await worker.ask(question(known))
        assert isinstance(again, Miss)
        assert again.ticket is not None
        assert again.ticket.flight, "its flight has ended"

    async def test_a_ticket_is_used_once(self, worker: Worker, known: Key) -> None:
        missed = await worker.ask(question(known))
        assert isinstance(missed, Miss)
        tape = Tape(missed.ticket, worker.recorder, 10)
        assert tape.hand_over() == missed.ticket
        tape.give_up()
        tape.piece(b"x")
        tape.stream(TARGET, Outcome())
        assert tape.hand_over() is None
        await worker.recorder.drain()
        assert worker.counted() == {"misses|": 1}

    def test_without_a_ticket_it_does_nothing(self) -> None:
        tape = Tape()
        tape.piece(b"x" * 100)
        tape.whole(b"{}", TARGET, Outcome(), gateway_fields=False)
        tape.give_up()
        assert tape.hand_over() is None


async def test_more_than_can_wait_is_not_kept(worker: Worker, known: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extproc.cache.recorder.MOST_WAITING_BYTES", 100)
    await worker.keep(Ticket(known, "t", NOW_MS))
    assert worker.counted() == {"refused|busy": 1}


async def test_an_answer_that_cannot_be_kept_is_named(
    worker: Worker, known: Key, caplog: pytest.LogCaptureFixture
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    missed = await worker.ask(question(known, request_id="r7", traceparent=f"00-{trace}-00f067aa0ba902b7-01"))
    assert isinstance(missed, Miss)
    outcome = Outcome(usage=Usage(input_tokens=9, output_tokens=4), complete=True)
    nowhere: Any = None
    body = json.dumps(completion()).encode()
    Tape(missed.ticket, worker.recorder).whole(body, nowhere, outcome, gateway_fields=False)
    await worker.recorder.drain()
    (told,) = [vars(record) for record in caplog.records if record.message == "answer not kept"]
    assert (told["request_id"], told["trace_id"]) == ("r7", trace)
