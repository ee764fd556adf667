"""The load generator's accounting: what it sends, counts and calls an error. Nothing here looks at how fast it is."""

import asyncio
import itertools

import pytest

from bench import scenarios
from bench.load import Load, Result, arrivals, generate
from bench.scenarios import SCENARIOS, Scenario
from control.demo.faults import Faults, Rule
from control.demo.server import DemoProvider
from control.demo.simulator import Options

PLAIN = next(item for item in SCENARIOS if item.name == "plain-167")
STREAM = next(item for item in SCENARIOS if item.name == "stream-167")


def load(port: int, scenario: Scenario = PLAIN, **changes: object) -> Load:
    values = {
        "host": "127.0.0.1",
        "port": port,
        "request": scenarios.request(scenario, "direct"),
        "last": scenarios.last(scenario, "direct"),
        "rate": 100.0,
        "seconds": 0.3,
    }
    return Load(**values | changes)  # type: ignore[arg-type]


async def ask(*rules: Rule, scenario: Scenario = PLAIN, **changes: object) -> tuple[Result, DemoProvider]:
    options = Options(faults=Faults(chunks=scenarios.CHUNKS), api_key=scenarios.PROVIDER_KEY)
    async with DemoProvider(options=options) as provider:
        provider.rules.set(list(rules))
        port = int(provider.address.rpartition(":")[2])
        return await generate(load(port, scenario, **changes)), provider


def test_arrivals_are_poisson_and_follow_from_the_seed() -> None:
    found = arrivals(rate=50, seconds=200, seed=3)
    gaps = [after - before for before, after in itertools.pairwise(found)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert found == sorted(found)
    assert found[0] > 0
    assert found[-1] < 200
    assert len(found) == pytest.approx(10_000, rel=0.05)
    assert variance == pytest.approx(mean**2, rel=0.1)  # of an exponential distribution
    assert found == arrivals(rate=50, seconds=200, seed=3)
    assert found != arrivals(rate=50, seconds=200, seed=4)


async def test_everything_that_is_due_is_sent_and_right() -> None:
    result, provider = await ask()
    assert result.errors == {}
    assert result.sent == len(arrivals(100, 0.3, 0)) == len(result.total_us)
    (totals,) = provider.stats.report()["formats"]["openai"].values()
    assert totals["completed"] == result.sent


async def test_no_two_requests_are_alike() -> None:
    options = Options(api_key=scenarios.PROVIDER_KEY, record_bodies=True)
    async with DemoProvider(options=options) as provider:
        result = await generate(load(int(provider.address.rpartition(":")[2])))
        bodies = [record["body"] for record in provider.stats.report()["recent"]]
    assert len({bytes(body) for body in bodies}) == len(bodies) == result.sent


@pytest.mark.parametrize("wire_format", ["openai", "anthropic"])
async def test_the_events_of_streams_are_counted(wire_format: str) -> None:
    scenario = Scenario("stream", 100, wire_format, stream=True)  # type: ignore[arg-type]
    result, _ = await ask(scenario=scenario)
    assert result.errors == {}
    assert result.events >= result.sent * scenarios.CHUNKS
    assert result.events % result.sent == 0


async def test_arrivals_do_not_wait_for_answers_and_latency_counts_from_when_a_request_was_due() -> None:
    """The server answers nothing until it has everything: whoever waits for an answer before sending never ends."""
    schedule = arrivals(100, 0.3, 0)
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
    writers: list[asyncio.StreamWriter] = []

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writers.append(writer)
        if len(writers) == len(schedule):
            for each in writers:
                each.write(answer)

    server = await asyncio.start_server(collect, "127.0.0.1", 0)
    async with server:
        result = await generate(load(server.sockets[0].getsockname()[1]))
        for writer in writers:
            writer.close()
    assert result.errors == {}
    assert result.connections == result.sent == len(schedule)
    # Every answer came after the last request had left, which is not before it was due.
    assert min(result.total_us) >= 0
    assert sorted(result.total_us)[-1] >= (schedule[-1] - schedule[0]) * 1e6 - 1


@pytest.mark.parametrize(
    ("rule", "scenario", "error"),
    [
        (Rule(first=3, status=503), PLAIN, "status 503"),
        (Rule(first=3, reset="before_headers"), PLAIN, "connection lost"),
        (Rule(first=3, reset="mid_stream"), STREAM, "connection lost"),
        (Rule(first=3, close_mid_stream=True), STREAM, "connection lost"),
        (Rule(first=3, no_done=True), STREAM, "no data: [DONE] at the end"),
        (Rule(first=3, hang="mid_stream"), STREAM, "unfinished"),
    ],
)
async def test_what_goes_wrong_is_counted(rule: Rule, scenario: Scenario, error: str) -> None:
    result, _ = await ask(rule, scenario=scenario, grace_s=1.0)
    assert result.errors == {error: 3}
    assert len(result.total_us) == result.sent - 3


async def test_errors_of_the_warm_up_count_but_its_latencies_do_not() -> None:
    result, _ = await ask(Rule(first=1, status=500), warm_up_s=0.2)
    after = [at for at in arrivals(100, 0.5, 0) if at >= 0.2]
    assert result.errors == {"status 500": 1}
    assert len(result.total_us) == len(after) < result.sent


async def test_nobody_listens() -> None:
    async with DemoProvider() as provider:
        port = int(provider.address.rpartition(":")[2])
    result = await generate(load(port))
    assert sum(result.errors.values()) == result.sent > 0
    assert all(kind.startswith("cannot connect") for kind in result.errors)
    assert result.total_us == []


async def test_connections_are_bounded() -> None:
    result, _ = await ask(Rule(hang="before_headers"), max_connections=5, grace_s=0.3)
    assert result.connections == 5
    assert result.errors == {"unfinished": 5, "no connection left": result.sent - 5}


@pytest.mark.parametrize("changes", [{"host": "192.0.2.1"}, {"seconds": 0.0}, {"seconds": 1e9}, {"rate": 0.0}], ids=str)
async def test_no_load_that_is_unbounded_or_for_another_machine(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"loopback|lasts"):
        await generate(load(9, **changes))
