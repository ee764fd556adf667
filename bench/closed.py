"""Closed loops: so many connections, each sending its next request when the last was answered.

In: a port and what to ask. Out: a `Tally`. For CPU per request at a given concurrency, and for soaking; latencies of a
closed loop flatter a server that stalls, so those are `bench.load`'s to measure.
"""

import asyncio
import time
from collections import Counter

import msgspec

from bench.client import Call, Connection
from bench.scenarios import Scenario, TargetName, last, request

_TIMEOUT_S = 60.0


class Tally(msgspec.Struct):
    """What came of it."""

    sent: int = 0
    left_early: int = 0  # requests whose client went away on purpose
    errors: Counter[str] = msgspec.field(default_factory=Counter)
    took_ms: list[float] = []


class Pace(msgspec.Struct, frozen=True):
    """How each connection goes on."""

    seconds: float
    pause_s: float = 0.0  # between an answer and the next request
    leave_every: int = 0  # n: every n-th request's client leaves before its answer is whole


async def run(
    port: int,
    scenario: Scenario,
    tally: Tally,
    pace: Pace,
    *,
    connections: int,
    start: int = 0,
    target: TargetName = "gateway",
) -> None:
    """Ask, on so many connections; requests are numbered from `start`."""
    end_s = time.monotonic() + pace.seconds
    asked, wanted = request(scenario, target), last(scenario, target)
    loops = (_loop(port, asked, wanted, tally, pace, end_s, start + at * 1_000_000) for at in range(connections))
    await asyncio.gather(*loops)


async def _loop(
    port: int, asked: tuple[bytes, bytes], wanted: bytes, tally: Tally, pace: Pace, end_s: float, number: int
) -> None:
    before, after = asked
    connection: Telling | None = None
    while time.monotonic() < end_s:
        number += 1
        tally.sent += 1
        if connection is None or not connection.alive:
            connection = await connect(port)
        told = connection.told = asyncio.get_running_loop().create_future()
        connection.send(Call(number, time.monotonic()), before + b"%010d" % number + after)
        if pace.leave_every and number % pace.leave_every == 0:
            await asyncio.sleep(0.001 * (number % 40))
            tally.left_early += not told.done()
            connection.close()
        else:
            _count(tally, await asyncio.wait_for(told, _TIMEOUT_S), wanted)
        await asyncio.sleep(pace.pause_s)
    if connection is not None:
        connection.close()


class Telling(Connection):
    """Tells whoever waits for the call."""

    told: asyncio.Future[Call]

    def __init__(self) -> None:
        super().__init__(self._tell)

    def _tell(self, _: Connection, call: Call) -> None:
        if not self.told.done():
            self.told.set_result(call)


async def connect(port: int) -> Telling:
    """A connection to a port of the loopback."""
    _, connection = await asyncio.get_running_loop().create_connection(Telling, "127.0.0.1", port)
    return connection


def _count(tally: Tally, call: Call, wanted: bytes) -> None:
    reader = call.reader
    if call.error is not None:
        tally.errors[call.error] += 1
    elif reader.status != 200 or wanted not in reader.tail:
        tally.errors[f"status {reader.status}, end {reader.tail[-20:]!r}"] += 1
    else:
        tally.took_ms.append(1000 * (call.done_s - call.sent_s))
