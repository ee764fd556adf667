"""A hold that the look-up takes along: one round trip, and never a hold for a request that is answered without."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from extproc.admission import Admission
from extproc.budget.estimate import OutputEstimates
from extproc.budget.ledger import Admitted, HoldClosed, Refused, Rider
from extproc.budget.outage import GuardedHolds, OutagePolicy
from extproc.budget.redis import RedisLedger
from extproc.budget.reserve import Reserver
from extproc.cache.answers import Answers
from extproc.cache.counts import Counts
from extproc.cache.entry import Entry
from extproc.cache.key import partition_of
from extproc.cache.ports import Flight
from extproc.cache.recorder import Recorder
from extproc.cache.redis import RedisStore
from extproc.cache.served import Served
from extproc.cache.step import CacheStep
from extproc.cache.ticket import Ticket
from extproc.catalog import compile_catalog
from extproc.errors import BudgetExceeded, NoProviderAvailable
from extproc.pipeline import Pipeline
from extproc.plan import Plan
from extproc.routing.health import Standings
from extproc.routing.standing import View
from extproc.settings import Cache, Settings, parse
from extproc.state import Argument, State
from extproc.state.pipe import open_state
from extproc.state.redis_py import connect
from extproc.tokens import Estimator
from tests.budget.builders import NOON_MS, reservation, settlement
from tests.budget.conftest import Valkey, own_valkey
from tests.cache.builders import entry, key, team_name

__all__ = ["own_valkey"]

FLIGHT_MS = 5_000
ASKED = b'{"model": "gpt", "messages": [{"role": "user", "content": "hi"}]}'
ANOTHER = b'{"model": "gpt", "messages": [{"role": "user", "content": "another"}]}'


@pytest.fixture(params=["pipe", "redis-py"])
async def client(request: pytest.FixtureRequest, valkey: Valkey) -> AsyncIterator[State]:
    made: Any = (open_state if request.param == "pipe" else connect)(valkey.url, timeout_s=5)
    yield made
    await made.aclose()


@pytest.fixture
def team() -> str:
    return team_name()


class Both:
    """A store and a ledger on one server."""

    def __init__(self, client: State, team: str) -> None:
        self.ledger, self.store, self.team = RedisLedger(client), RedisStore(client), team

    async def look_up(self, hold: str, flight: str = "r1", **limits: Any) -> tuple[Entry | Flight, Rider]:
        rider = self.ledger.rider(reservation(self.team, hold, **limits))
        assert rider is not None
        return await self.store.look_up(key("hi", team=self.team), NOON_MS, flight, FLIGHT_MS, rider), rider

    async def held(self) -> int:
        usage = await self.ledger.usage(self.team, NOON_MS, reservation(self.team, "any").windows)
        return usage.standing.daily.held_tokens


@pytest.fixture
def both(client: State, team: str) -> Both:
    return Both(client, team)


async def test_a_miss_holds(both: Both) -> None:
    found, rider = await both.look_up("a")
    assert found is Flight.LEAD
    assert await both.held() == 100
    answer = await both.ledger.reserve(reservation(both.team, "a"), rider)
    assert isinstance(answer, Admitted)
    assert answer.standing.daily.held_tokens == 100
    assert await both.held() == 100  # once


async def test_it_is_the_hold_that_a_call_of_its_own_takes(client: State) -> None:
    """The same requests, one team's taken along, the other's not, up to and over each limit."""
    limits = {"daily_tokens": 350, "requests_per_minute": 5, "daily_nano_usd": 10**6}
    priced = {"input_nano_usd": 1_000, "output_pico_usd_per_token": 2_000}
    along, alone = Both(client, team_name()), RedisLedger(client)
    other = team_name()
    for at in range(8):
        ask = {"now_ms": NOON_MS + at, "output_tokens": 90 - 7 * at, **priced, **limits}
        _, rider = await along.look_up(str(at), flight="", **ask)
        assert await along.ledger.reserve(reservation(along.team, str(at), **ask), rider) == await alone.reserve(
            reservation(other, str(at), **ask)
        )


async def test_without_room_nothing_is_held_and_the_flight_is_its_own(both: Both) -> None:
    found, rider = await both.look_up("a", daily_tokens=5)
    assert found is Flight.LEAD
    answer = await both.ledger.reserve(reservation(both.team, "a", daily_tokens=5), rider)
    assert isinstance(answer, Refused)
    assert answer.limits == ("daily_tokens",)
    assert await both.held() == 0


async def test_an_answer_that_is_kept_costs_nothing(both: Both) -> None:
    known = key("hi", team=both.team)
    made = entry(known, "Hello.", stored_ms=NOON_MS)
    await both.store.store(made, Ticket(known, both.team, NOON_MS, ""), 3_600_000, 10**9)
    found, rider = await both.look_up("a")
    assert found == made
    assert rider.reply is None
    assert await both.held() == 0


async def test_who_follows_another_holds_nothing_yet(both: Both) -> None:
    await both.look_up("a", flight="r1")
    found, rider = await both.look_up("b", flight="r2")
    assert found is Flight.FOLLOW
    assert rider.reply is None
    assert await both.held() == 100
    assert isinstance(await both.ledger.reserve(reservation(both.team, "b"), rider), Admitted)
    assert await both.held() == 200


async def test_without_flights_a_miss_holds_too(both: Both) -> None:
    found, rider = await both.look_up("a", flight="")
    assert found is Flight.FOLLOW
    assert rider.reply is not None
    assert await both.held() == 100


async def test_a_reply_that_got_lost_is_asked_for_again(both: Both) -> None:
    _, rider = await both.look_up("a")
    rider.reply = None
    assert isinstance(await both.ledger.reserve(reservation(both.team, "a"), rider), Admitted)
    assert await both.held() == 100


async def test_a_hold_that_is_over_stays_so(both: Both) -> None:
    await both.ledger.reserve(reservation(both.team, "a"))
    await both.ledger.settle(settlement(both.team, "a", 10))
    _, rider = await both.look_up("a")
    with pytest.raises(HoldClosed):
        await both.ledger.reserve(reservation(both.team, "a"), rider)


async def test_a_server_that_lost_its_scripts_is_sent_them(both: Both, client: State) -> None:
    await client.execute_command("SCRIPT", "FLUSH")
    await both.look_up("a")
    assert await both.held() == 100


# --- the walk ----------------------------------------------------------------------------------------------------


class Counting:
    """A client, and how often it was asked."""

    one_server = True

    def __init__(self, client: State) -> None:
        self._client = client
        self.calls = 0

    async def execute_command(self, *command: Argument) -> Any:
        self.calls += 1
        return await self._client.execute_command(*command)

    async def aclose(self) -> None:
        await self._client.aclose()


class Clock:
    def wall_s(self) -> float:
        return NOON_MS / 1000

    def mono_ns(self) -> int:
        return 0


class Walk:
    """A worker's pipeline, with what it keeps."""

    def __init__(self, client: State, settings: Settings) -> None:
        self.client = Counting(client)
        self.view = View(settings.breaker)
        self.store = RedisStore(self.client)
        counts, cache = Counts(), Cache(exact=True, coalesce_wait=0.2)
        self.recorder = Recorder(lambda: cache, self.store, counts)
        answers = Answers(lambda: cache, self.store, counts)
        holds = GuardedHolds(RedisLedger(self.client), OutagePolicy("fail_open", 1))
        self.pipeline = Pipeline(
            compile_catalog(settings),
            Reserver(holds, Estimator(), OutputEstimates(), lease_ms=60_000),
            Clock(),
            self.view,
            CacheStep(answers, self.recorder),
        )

    def admit(self, request_id: str) -> Admission:
        headers = {":path": "/v1/chat/completions", "authorization": "Bearer sk-ride", "x-request-id": request_id}
        return self.pipeline.authenticate(headers)

    async def ask(self, request_id: str, body: bytes = b"") -> Plan | Served:
        self.client.calls = 0
        return await self.pipeline.decide(self.admit(request_id), body or ASKED)


def settings_of(team: str, limits: str) -> Settings:
    return parse(
        f"""
providers: {{openai: {{format: openai, base_url: "http://127.0.0.1:1/v1", credential: key}}}}
models: [{{name: gpt, provider: openai, price: {{input: 1, output: 4}}, max_output: 100}}]
teams: [{{id: {team}, keys: [sk-ride], {limits}}}]
""",
        {},
    )


async def keep(walk: Walk, plan: Plan | Served, team: str) -> None:
    assert isinstance(plan, Plan)
    ticket = plan.tape.hand_over()
    assert ticket is not None
    assert ticket.key.partition == partition_of(team, shared=False)
    made = entry(ticket.key, "Hello.", stored_ms=NOON_MS)
    await walk.store.store(made, ticket, 3_600_000, 10**9)


async def test_a_request_that_may_be_kept_takes_one_round_trip(client: State, team: str) -> None:
    walk = Walk(client, settings_of(team, "budget: {daily_tokens: 100000}"))
    assert isinstance(await walk.ask("r0"), Plan)  # the scripts are sent
    plan = await walk.ask("r1", ANOTHER)
    assert isinstance(plan, Plan)
    assert walk.client.calls == 1
    assert plan.decision.cache == "miss"
    assert "x-ratelimit-remaining-tokens" in dict(plan.limit_headers)


async def test_what_is_kept_is_served_to_a_team_that_has_nothing_left(client: State, team: str) -> None:
    walk = Walk(client, settings_of(team, "budget: {daily_tokens: 150}"))
    await keep(walk, await walk.ask("r0"), team)
    with pytest.raises(BudgetExceeded):
        await walk.ask("r1", ANOTHER)
    assert isinstance(await walk.ask("r2"), Served)


async def test_what_is_kept_is_served_while_no_provider_is_there(client: State, team: str) -> None:
    walk = Walk(client, settings_of(team, "budget: {daily_tokens: 100000}"))
    await keep(walk, await walk.ask("r0"), team)
    walk.view.standings = Standings(drained=frozenset({"openai"}))
    assert isinstance(await walk.ask("r1"), Served)
    with pytest.raises(NoProviderAvailable):
        await walk.ask("r2", ANOTHER)


async def test_a_refused_request_leaves_the_flight_to_the_next(client: State, team: str) -> None:
    walk = Walk(client, settings_of(team, "budget: {daily_tokens: 20}"))
    with pytest.raises(BudgetExceeded):
        await walk.ask("r0")
    await walk.recorder.drain()
    generous = Walk(client, settings_of(team, "budget: {daily_tokens: 100000}"))
    assert isinstance(await generous.ask("r1"), Plan)


async def test_without_the_state_the_outage_policy_decides(own_valkey: Valkey, team: str) -> None:
    client = open_state(own_valkey.url, timeout_s=5)
    walk = Walk(client, settings_of(team, "budget: {daily_tokens: 100000}"))
    assert isinstance(await walk.ask("r0"), Plan)
    own_valkey.kill()
    plan = await walk.ask("r1")
    assert isinstance(plan, Plan)
    assert plan.decision.cache == "bypass"
    await client.aclose()


async def test_a_client_that_leaves_meanwhile_has_one_hold(client: State, team: str) -> None:
    """By it the settler finds whose request it was, and gives it back."""
    walk = Walk(client, settings_of(team, "budget: {daily_tokens: 100000}"))
    admission = walk.admit("r0")
    asking = asyncio.create_task(walk.pipeline.decide(admission, ASKED))
    while not walk.client.calls:  # noqa: ASYNC110 - it is on its way
        await asyncio.sleep(0)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    await walk.pipeline.abandoned(admission)
    assert await RedisLedger(client).held(team, ["r0"]) == {"r0"}
