"""The step in the walk: flights that began though nobody heard of it. On a real Valkey."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from extproc.cache.answers import Answers
from extproc.cache.counts import Counts
from extproc.cache.key import Key
from extproc.cache.ports import Flight, StoreUnavailable
from extproc.cache.recorder import Recorder
from extproc.cache.redis import RedisStore
from extproc.cache.step import CacheStep, Looked
from extproc.catalog import Catalog, compile_catalog
from extproc.chat import GatewayMetadata
from extproc.records import Outcome, Usage
from extproc.settings import parse
from extproc.state.pipe import open_state
from tests.budget.conftest import Valkey
from tests.cache.builders import NOW_MS, TARGET, chat, completion, key, team_name

SETTINGS = """
providers: {{openai: {{format: openai, base_url: "http://127.0.0.1:9/v1", credential: x}}}}
models: [{{name: gpt, provider: openai}}]
teams: [{{id: {team}, keys: [sk]}}]
cache: {{exact: true}}
"""


class Slow(RedisStore):
    """Each look-up is done, and then `late`: nobody hears of it, or not in time."""

    late: Any = None

    async def look_up(self, *asked: Any) -> Any:
        found = await super().look_up(*asked)
        if self.late is not None:
            await self.late()
        return found


class Worker:
    """One worker's cache, and a team nobody else uses."""

    def __init__(self, client: Any) -> None:
        self.team_id = team_name()
        settings = parse(SETTINGS.format(team=self.team_id), {})
        self.catalog: Catalog = compile_catalog(settings)
        self.store, counts = Slow(client), Counts()
        self.recorder = Recorder(lambda: settings.cache, self.store, counts, lambda: NOW_MS / 1000)
        self.step = CacheStep(Answers(lambda: settings.cache, self.store, counts), self.recorder)

    async def ask(self, request_id: str) -> Looked:
        team = self.catalog.views[self.team_id]
        given: dict[str, Any] = {"subject": "model:gpt", "cache_control": "", "now_ms": NOW_MS}
        return await self.step.look_up(chat("hi"), GatewayMetadata(), team=team, request_id=request_id, **given)

    async def flies(self) -> bool:
        """Whether somebody is on the way for it, as another replica finds it."""
        return await RedisStore(self.store._client).look_up(self.known, NOW_MS, "another", 1) is Flight.FOLLOW

    @property
    def known(self) -> Key:
        return key("hi", team=self.team_id)


@pytest.fixture
async def worker(valkey: Valkey) -> AsyncIterator[Worker]:
    client: Any = open_state(valkey.url, timeout_s=5)
    yield Worker(client)
    await client.aclose()


async def test_a_client_that_leaves_while_it_is_looked_up_holds_up_nobody(worker: Worker) -> None:
    looked_up = asyncio.Event()

    async def late() -> None:
        looked_up.set()
        await asyncio.Event().wait()

    worker.store.late = late
    ask = asyncio.create_task(worker.ask("first"))
    await looked_up.wait()
    assert await worker.flies()
    ask.cancel()
    await asyncio.wait({ask})
    await worker.recorder.drain()
    assert not await worker.flies()


async def test_who_began_a_flight_and_heard_nothing_of_it_flies_it(worker: Worker) -> None:
    async def late() -> None:
        raise StoreUnavailable("slow")

    worker.store.late = late
    first = await worker.ask("first")
    assert first.status == "bypass"
    assert await worker.flies()
    outcome = Outcome(usage=Usage(input_tokens=9, output_tokens=4), complete=True)
    first.tape.whole(json.dumps(completion("Hello.")).encode(), TARGET, outcome, gateway_fields=False)
    await worker.recorder.drain()
    worker.store.late = None
    assert (await worker.ask("second")).status == "hit"
