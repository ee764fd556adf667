"""No token is unaccounted for, whatever is killed: with answers that pass by Envoy alone, and with those that do not.

Clients ask in every way there is while workers, settler, Valkey and control are each killed, and then stopped for a
while, and the configuration is reloaded each time. Afterwards each request that a provider saw has one row, which says
what the provider counted and what its client was told; the ledger has the rows' sums, and nothing is held. EVERY_S sets
the time between two of these.
"""

import asyncio
import contextlib
import itertools
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
import pytest
import yaml

from tests.envoy.harness import Config, Gateway, Simulator, ask, bearer, marker, wait_until
from tests.reconcile import sources
from tests.reconcile.sources import Row, tokens

EVERY_S = float(os.environ.get("EVERY_S", "1"))
LOOK_S = 0.3  # at what providers keep: their last 200 requests
CLIENTS, PAUSE_S = 12, 0.1
STOPPED_S = 2.0  # longer than the state is waited for, shorter than a PING is
LEASE_S = 20.0  # longer than anything is away: what is charged by its lease's end is a request that got lost
PROCESSES = ("gateway worker 0", "gateway settler", "valkey-server", "gateway worker 1", "gateway control")
TEAMS = ("one", "other")
SLOWLY = {"chunks": 12, "chunk_interval_ms": 40}
# Model, how the provider is to answer, and after how many bytes the client leaves (None: it does not).
KINDS: tuple[tuple[str, dict[str, Any], int | None], ...] = (
    ("gpt", {"chunks": 4}, None),
    ("gpt", SLOWLY, None),
    ("gpt", SLOWLY, 600),
    ("claude", {"chunks": 4}, None),
    ("gemini", SLOWLY, None),
    ("gemini", SLOWLY, 600),
    ("gpt-ha", {"fail_provider": "openai", "status": 503}, None),  # another format stands in
    ("claude-ha", {"fail_provider": "anthropic", "status": 503}, None),
    ("dead-ha", {"chunks": 4}, None),  # the same format does
    ("gpt", {"status": 400}, None),
    ("claude", {"status": 500}, None),
    ("gpt", {"close_mid_stream": "true", "chunks": 8}, None),
    ("claude", {"close_mid_stream": "true", "chunks": 8}, None),
    ("gemini", {"no_usage": "true"}, None),
)
_TOTAL = re.compile(rb'"total_tokens": ?(\d+)')


class Seen(msgspec.Struct, frozen=True):
    """What a client was told of a request that came to its end."""

    request_id: str
    tokens: int


class Traffic:
    """Clients that ask until they are stopped, each at its own pace; what became of it."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._number = itertools.count()
        self._random = random.Random(1)
        self.stop = asyncio.Event()
        self.sent = 0
        self.seen: list[Seen] = []

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            await asyncio.gather(*(self._client(session) for _ in range(CLIENTS)))

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self.stop.is_set():
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                await self._one(session)
            await asyncio.sleep(PAUSE_S)

    async def _one(self, session: aiohttp.ClientSession) -> None:
        choice = self._random
        number, (model, faults, leaves_after) = next(self._number), choice.choice(KINDS)
        cached = choice.random() < 0.2 and not leaves_after
        prompt = f"Question {number % 9 if cached else number} {marker(**faults)}"
        stream = {"stream": True, "stream_options": {"include_usage": True}} if choice.random() < 0.5 else {}
        body = ask(prompt, model, metadata={"bypass_cache": not cached}, **stream)
        headers = bearer(f"sk-{choice.choice(TEAMS)}") | {"x-gateway-metadata": choice.choice(("headers", "body"))}
        self.sent += 1
        async with session.post(self._url, json=body, headers=headers) as answer:
            if leaves_after is not None:
                received = 0
                while received < leaves_after and (piece := await answer.content.readany()):
                    received += len(piece)
                answer.close()
                return
            whole = await answer.read()
            ended = whole.rstrip().endswith(b"data: [DONE]" if stream else b"}")
            told = _TOTAL.findall(whole)
            if answer.status == 200 and ended and told and answer.headers["x-gateway-cache"] != "hit":
                self.seen.append(Seen(answer.headers["x-gateway-request-id"], int(told[-1])))


class Provided:
    """What the providers counted of each request. They keep the last few hundred, so they are asked again and again."""

    def __init__(self, simulators: tuple[Simulator, ...]) -> None:
        self._simulators = simulators
        self._found: dict[tuple[int, str], list[dict[str, Any]]] = {}

    def look(self) -> None:
        for number, simulator in enumerate(self._simulators):
            now = defaultdict[tuple[int, str], list[dict[str, Any]]](list)
            for record in simulator.recent():
                now[number, record["headers"]["x-request-id"]].append(record)
            self._found |= now

    @property
    def by_id(self) -> dict[str, list[dict[str, Any]]]:
        found = defaultdict[str, list[dict[str, Any]]](list)
        for (_, request_id), records in self._found.items():
            found[request_id] += records
        return found


class Books(msgspec.Struct):
    """Everything that was said, when all was over."""

    sent: int
    seen: list[Seen]
    rows: dict[str, Row]
    provided: dict[str, list[dict[str, Any]]]
    ledger: dict[str, tuple[int, int, int]]


@pytest.fixture(scope="module")
def config(new_config: Callable[[], Config]) -> Config:
    config = new_config() | {"budgets": {"hold_lease": f"{LEASE_S}s"}, "cache": {"exact": True, "coalesce_wait": "3s"}}
    config["teams"] = [{"id": team, "keys": [f"sk-{team}"]} for team in TEAMS]
    return config


@pytest.fixture(scope="module")
def books(gateway: Gateway, simulators: tuple[Simulator, Simulator]) -> Books:
    for simulator in simulators:
        simulator.reset()
    provided = Provided(simulators)
    traffic = asyncio.run(disturbed(gateway, provided))
    wait_until(lambda: gateway.http.get("/readyz").status_code == 200, 20, "control to be back")
    wait_until(lambda: not sources.still_open(simulators), 20, "the providers to be done")
    provided.look()
    wait_until(lambda: provided.by_id.keys() <= rows(gateway).keys(), 20, "a row of each request they saw")
    wait_until(lambda: not sources.Metrics(gateway).total("gateway_settlement_outbox"), 20, "all rows to be charged")
    wait_until(lambda: not sum(held for *_, held in sources.ledger(gateway, TEAMS).values()), 20, "no hold to be left")
    return Books(traffic.sent, traffic.seen, rows(gateway), provided.by_id, sources.ledger(gateway, TEAMS))


def rows(gateway: Gateway) -> dict[str, Row]:
    return {row["request_id"]: row for row in sources.rows(gateway)}


async def disturbed(gateway: Gateway, provided: Provided) -> Traffic:
    """Traffic, while one process after the other is killed, or stopped, and the configuration changed as it is."""
    traffic = Traffic(gateway.url)
    running = asyncio.create_task(traffic.run())

    async def look(for_s: float) -> None:
        for _ in range(round(for_s / LOOK_S)):
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(provided.look)

    for number, (title, kill) in enumerate(itertools.product(PROCESSES, (True, False))):
        await look(EVERY_S)
        timeouts = gateway.config["timeouts"] | {"request": f"{500 + number}s"}
        gateway.file.write_text(yaml.safe_dump(gateway.config | {"timeouts": timeouts}))
        for process in gateway.processes(title):
            if kill:
                process.kill()
                continue
            process.suspend()
            await look(STOPPED_S)
            process.resume()
    await look(EVERY_S)
    traffic.stop.set()
    await running
    return traffic


def test_each_request_that_a_provider_saw_has_a_row(books: Books) -> None:
    assert len(books.seen) > books.sent / 4
    assert not [found for request_id, found in books.provided.items() if request_id not in books.rows]
    # What is left of a hold alone would be a request that got lost.
    assert not [row for row in books.rows.values() if row["error_code"] == "unreconciled"]


def test_rows_say_what_the_providers_counted(books: Books) -> None:
    """To the token where usage was seen; of what was cut at least the input (the rest: test_budgets_held)."""
    wrong = []
    for row in books.rows.values():
        asked = books.provided.get(row["request_id"], [])
        sent, produced = (
            sum(each[name] for each in asked if each["status"] == 200)
            for name in ("prompt_tokens", "completion_tokens")
        )
        if row["estimated"] or row["outrun_tokens"]:  # a stand-in's answer that was cut off is charged for its input
            fits = row["input_tokens"] + row["outrun_tokens"] >= sent
        else:
            fits = tokens(row) == sent + produced
        if not fits or row["attempts"] < len(asked):
            wrong.append((row, asked))
    assert not wrong


def test_rows_say_what_clients_were_told(books: Books) -> None:
    assert not [each for each in books.seen if tokens(books.rows[each.request_id]) != each.tokens]


def test_the_ledger_has_the_sums_of_the_rows(books: Books) -> None:
    used, spent = Counter[str](), Counter[str]()
    for row in books.rows.values():
        used[row["team_id"]] += tokens(row) + row["outrun_tokens"]
        spent[row["team_id"]] += round((row["cost_usd"] or 0) * 1e9)
    assert books.ledger == {team: (used[team], spent[team], 0) for team in TEAMS}
