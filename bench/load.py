"""The load generator: open loop, in a process of its own.

In: a `Load` as JSON on stdin. Out: a `Result` as JSON on stdout. Requests leave when the schedule says so, whatever
became of those before, and latency counts from the scheduled moment: a stalled server is charged with every request
that was due meanwhile (no coordinated omission). Started by `bench.runs` as `python -m bench.load`.

Arrivals are Poisson's, from a seed, so that every target of a round meets the same ones. The moment comes from an
interval timer, because event loops keep theirs in whole milliseconds, a good part of what is measured here.
"""

import asyncio
import contextlib
import gc
import ipaddress
import random
import resource
import signal
import sys
import time
from collections import Counter

import msgspec
import uvloop

from bench.client import Call, Connection

MAX_CALLS = 1_000_000
MAX_SECONDS = 600.0
SEQUENCE = b"%010d"  # goes between the two halves of a request, so that no two bodies are alike


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to send, where to, how often."""

    host: str
    port: int
    request: tuple[bytes, bytes]  # all of it, HTTP head included, less the sequence number between the two
    last: bytes  # is within the last 64 bytes of a whole body
    rate: float  # per second
    seconds: float
    warm_up_s: float = 0.0  # comes first, is sent and checked, but its latencies are not kept
    grace_s: float = 10.0  # for what is still in flight after the last arrival
    max_connections: int = 4096
    seed: int = 0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `sent` and `errors` count everything, the lists only what came after the warm-up and was right.

    Microseconds, from the scheduled moment."""

    sent: int
    errors: dict[str, int]
    total_us: list[int]
    first_byte_us: list[int]
    late_us: list[int]  # until the request was written: the client's own part of the latency
    events: int  # blank lines in all bodies
    body_bytes: int
    connections: int
    client_cpu_s: float


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Moments, in seconds from the start, of a Poisson process of `rate` per second."""
    rng = random.Random(seed)
    found: list[float] = []
    at = rng.expovariate(rate)
    while at < seconds and len(found) < MAX_CALLS:
        found.append(at)
        at += rng.expovariate(rate)
    return found


class Generator:
    """Sends a schedule and counts what comes back."""

    def __init__(self, load: Load, schedule: list[float]) -> None:
        if not ipaddress.ip_address(load.host).is_loopback:
            raise ValueError(f"{load.host} is not this machine: load is for the loopback only")
        self._load = load
        self._schedule = schedule
        self._next = 0
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._opened = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._pending: dict[int, Call] = {}
        self._finished: list[Call] = []
        self._quiet = asyncio.Event()

    async def run(self) -> Result:
        """Play the schedule to its end. Takes no longer than it and the grace time."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGALRM, self._on_time)
        cpu = time.process_time()
        self._began_s = time.monotonic()
        self._on_time()
        try:
            await asyncio.wait_for(self._quiet.wait(), self._load.warm_up_s + self._load.seconds + self._load.grace_s)
        except TimeoutError:
            self._give_up()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            loop.remove_signal_handler(signal.SIGALRM)
            for task in self._opening:
                task.cancel()
            for connection in self._all:
                connection.close()
        return self._result(time.process_time() - cpu)

    def _on_time(self) -> None:
        """Send what is due, and set the timer for the next."""
        schedule, count = self._schedule, len(self._schedule)
        while self._next < count:
            due_s = self._began_s + schedule[self._next]
            wait_s = due_s - time.monotonic()
            if wait_s > 0:
                signal.setitimer(signal.ITIMER_REAL, max(wait_s, 1e-6))
                return
            call = self._pending[self._next] = Call(self._next, due_s)
            self._next += 1
            self._send(call)
        self._look_whether_done()

    def _send(self, call: Call) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.alive:
                connection.send(call, self._bytes(call))
                return
        if len(self._all) + len(self._opening) >= self._load.max_connections:
            call.error = "no connection left"
            self._end(call)
            return
        task = asyncio.ensure_future(self._open(call))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, call: Call) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self._on_done), self._load.host, self._load.port
            )
        except OSError as error:
            call.error = f"cannot connect: {error.strerror or error}"
            self._end(call)
            return
        self._all.add(connection)
        self._opened += 1
        connection.send(call, self._bytes(call))

    def _bytes(self, call: Call) -> bytes:
        before, after = self._load.request
        return b"".join((before, SEQUENCE % call.index, after))

    def _on_done(self, connection: Connection, call: Call) -> None:
        if connection.alive:
            self._idle.append(connection)
        else:
            self._all.discard(connection)
        self._end(call)

    def _end(self, call: Call) -> None:
        reader = call.reader
        if call.error is None and reader.status != 200:
            call.error = f"status {reader.status}"
        elif call.error is None and self._load.last not in reader.tail:
            call.error = f"no {self._load.last.decode(errors='replace').strip()} at the end"
        del self._pending[call.index]
        self._finished.append(call)
        self._look_whether_done()

    def _look_whether_done(self) -> None:
        if self._next >= len(self._schedule) and not self._pending:
            self._quiet.set()

    def _give_up(self) -> None:
        for call in list(self._pending.values()):
            call.error = "unfinished"
            self._finished.append(call)
        self._pending.clear()

    def _result(self, client_cpu_s: float) -> Result:
        from_s = self._began_s + self._load.warm_up_s
        kept = [call for call in self._finished if call.error is None and call.due_s >= from_s]
        return Result(
            sent=len(self._finished),
            errors=dict(Counter(call.error for call in self._finished if call.error is not None)),
            total_us=[_us(call.done_s - call.due_s) for call in kept],
            first_byte_us=[_us(call.first_s - call.due_s) for call in kept],
            late_us=[_us(call.sent_s - call.due_s) for call in kept],
            events=sum(call.reader.events for call in self._finished),
            body_bytes=sum(call.reader.body_bytes for call in self._finished),
            connections=self._opened,
            client_cpu_s=client_cpu_s,
        )


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


async def generate(load: Load) -> Result:
    """Run `load` in this process. Raises ValueError for one that is too long, or not for this machine."""
    seconds = load.warm_up_s + load.seconds
    if not 0 < seconds <= MAX_SECONDS or load.rate <= 0:
        raise ValueError(f"a load lasts up to {MAX_SECONDS:g} s, at a rate above 0")
    return await Generator(load, arrivals(load.rate, seconds, load.seed)).run()


def main() -> None:
    """Read the load, run it, write the result."""
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    with contextlib.suppress(ValueError, OSError):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 2 * load.max_connections), most))
    gc.disable()  # a bounded run: pauses would be charged to the server
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(generate(load))))


if __name__ == "__main__":
    main()
