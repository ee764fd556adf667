"""`make ops-run`: two gateways on one Valkey under mixed streams, reconfigured, restarted one after the other, their
provider's key rotated. No request may fail, no stream may be cut, and the books must agree to the token.

In: for how long, how many requests a second, how many reloads and rolling restarts. Out: what was done, and what each
of the books says; exit code 1 where they differ or a request failed. A rolling restart is what Kubernetes does to a
Deployment: a replica leaves the balancer, gets SIGTERM, ends what is in flight, and is replaced; then the next.
"""

import asyncio
import contextlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import aiohttp
import click
import msgspec

from bench.books import Books, provider_keys, sums_of
from bench.replicas import NEW_KEY, OLD_KEY, Replica, deployment

MOST_SECONDS = 3600.0
_DEREGISTER_S = 0.5  # between leaving the balancer and SIGTERM: a preStop hook's pause
_OLD_KEY_LIVES_S = 3.0  # how long the provider takes both keys
_REQUEST_S = 60.0


class Kind(msgspec.Struct, frozen=True):
    """A request: its model, whether it is streamed, and how the provider is to answer."""

    model: str
    stream: bool
    chunks: int
    gap_ms: int
    share: float


KINDS = (
    Kind("openai", stream=False, chunks=40, gap_ms=0, share=0.35),
    Kind("anthropic", stream=False, chunks=40, gap_ms=0, share=0.15),
    Kind("openai", stream=True, chunks=40, gap_ms=20, share=0.25),
    Kind("anthropic", stream=True, chunks=40, gap_ms=20, share=0.15),
    Kind("openai", stream=True, chunks=100, gap_ms=100, share=0.06),  # 10 s: outlives reloads and meets drains
    Kind("anthropic", stream=True, chunks=100, gap_ms=100, share=0.04),
)


class Balancer:
    """What stands before the replicas: each request goes to the next one that is in."""

    def __init__(self, replicas: list[Replica]) -> None:
        self._in = list(replicas)
        self._turn = 0

    def next(self) -> Replica:
        """Whose turn it is."""
        self._turn += 1
        return self._in[self._turn % len(self._in)]

    def take_out(self, replica: Replica) -> None:
        """No new requests to it."""
        self._in.remove(replica)

    def put_back(self, replica: Replica) -> None:
        """It serves again."""
        self._in.append(replica)


Step = Callable[[], Awaitable[None]]


class Load:
    """Requests at random moments, whatever becomes of those before."""

    def __init__(self, balancer: Balancer, rate: float, kinds: Sequence[Kind] = KINDS, seed: int = 0) -> None:
        self._balancer = balancer
        self._kinds = kinds
        self._rate = rate
        self._random = random.Random(seed)
        self._stop = asyncio.Event()
        self.sent: Counter[str] = Counter()
        self.failures: list[str] = []

    def stop(self) -> None:
        """Send no more; `run` returns when all is answered."""
        self._stop.set()

    async def run(self) -> None:
        """Until stopped."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=_REQUEST_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as group:
            due_s = time.monotonic()
            while not self._stop.is_set():
                kind = self._random.choices(self._kinds, [kind.share for kind in self._kinds])[0]
                group.create_task(self._ask(session, kind, sum(self.sent.values())))
                self.sent["stream" if kind.stream else "whole"] += 1
                due_s += self._random.expovariate(self._rate)
                if (wait_s := due_s - time.monotonic()) > 0:  # else it is late, and catches up
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._stop.wait(), wait_s)
                elif sum(self.sent.values()) % 10 == 0:
                    await asyncio.sleep(0)

    async def _ask(self, session: aiohttp.ClientSession, kind: Kind, number: int) -> None:
        replica = self._balancer.next()
        prompt = f"Request {number} [[demo chunks={kind.chunks} chunk_interval_ms={kind.gap_ms}]]"
        body = {"model": kind.model, "stream": kind.stream, "messages": [{"role": "user", "content": prompt}]}
        url, headers = f"{replica.url}/v1/chat/completions", {"authorization": f"Bearer {replica.team_key}"}
        began_s = time.monotonic()
        try:
            async with session.post(url, json=body, headers=headers) as answer:
                whole = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            wrong = repr(error)
        else:
            end = b"data: [DONE]" if kind.stream else b"}"
            wrong = "" if answer.status == 200 and whole.rstrip().endswith(end) else f"{answer.status} {whole[-300:]!r}"
        if wrong:
            at_s = time.monotonic() - began_s
            what = f"request {number} ({kind.model}, stream {kind.stream}) to {replica.name}"
            self.failures.append(f"{what} after {at_s:.1f} s: {wrong}")


class Run:
    """What is done to the deployment while it serves."""

    def __init__(self, replicas: list[Replica], balancer: Balancer, provider_url: str) -> None:
        self._replicas = replicas
        self._balancer = balancer
        self._provider_url = provider_url
        self._changing = asyncio.Lock()  # a replica that restarts is not reloaded
        self._version = 0
        self.done: Counter[str] = Counter()

    async def reload(self) -> None:
        """Another configuration on every replica: listener, routes, clusters and models change."""
        async with self._changing:
            self._version += 1
            for replica in self._replicas:
                replica.configure(self._version)
            for replica in self._replicas:
                await replica.reloaded()
            self.done["reloads"] += 1

    async def rotate(self) -> None:
        """The provider takes the new key too; the gateways get it; then the provider takes nothing else."""
        async with self._changing:
            await provider_keys(self._provider_url, OLD_KEY, NEW_KEY)
            for replica in self._replicas:
                replica.rotate(NEW_KEY)
            for replica in self._replicas:
                await replica.reloaded()
            await asyncio.sleep(_OLD_KEY_LIVES_S)
            await provider_keys(self._provider_url, NEW_KEY)
            self.done["key rotations"] += 1

    async def restart(self) -> None:
        """One replica after the other."""
        async with self._changing:
            for replica in self._replicas:
                self._balancer.take_out(replica)
                await asyncio.sleep(_DEREGISTER_S)
                await replica.stop()
                await replica.start()
                self._balancer.put_back(replica)
            self.done["rolling restarts"] += 1


def schedule(seconds: float, reloads: int, restarts: int, run: Run) -> list[tuple[float, Step]]:
    """What is done, and when, in seconds from the start: each kind evenly, the rotation in the middle."""
    steps: list[tuple[float, Step]] = [(seconds / 2, run.rotate)]
    for count, step in ((reloads, run.reload), (restarts, run.restart)):
        steps += [(seconds * (turn + 0.5) / count, step) for turn in range(count)]
    return sorted(steps, key=lambda step: step[0])


class Outcome(msgspec.Struct, frozen=True):
    """What was done, what was sent, what failed, what the books say, and what the gateways' logs complain of."""

    done: dict[str, int]
    sent: dict[str, int]
    failures: list[str]
    books: Books
    logged: list[str]

    @property
    def problems(self) -> list[str]:
        """What should not be."""
        sent, books = sum(self.sent.values()), self.books
        found = [*self.failures, *self.logged]
        for name, sums in (("audit rows", books.audit), ("provider", books.provider)):
            if sums.requests != sent:
                found.append(f"{name}: {sums.requests} requests, {sent} were sent")
        tokens = {"audit": books.audit.tokens, "ledger": books.ledger_tokens, "provider": books.provider.tokens}
        if len({*tokens.values()}) > 1:
            found.append(f"tokens: {', '.join(f'{name} {count}' for name, count in tokens.items())}")
        if books.held_tokens:
            found.append(f"{books.held_tokens} tokens are still held")
        if set(books.statuses) - {"success"}:
            found.append(f"audit statuses: {dict(books.statuses)}")
        return found


async def operate(
    folder: Path, seconds: float, rate: float, reloads: int, restarts: int, kinds: Sequence[Kind] = KINDS
) -> Outcome:
    """Run it all. Raises StackError when a replica does not come up, does not end well, or refuses a change."""
    async with deployment(folder) as (replicas, provider_url):
        balancer = Balancer(replicas)
        load, run = Load(balancer, rate, kinds), Run(replicas, balancer, provider_url)
        began_s = time.monotonic()
        loading = asyncio.create_task(load.run())
        try:
            for at_s, step in schedule(seconds, reloads, restarts, run):
                await asyncio.sleep(max(0.0, began_s + at_s - time.monotonic()))
                await step()
                _say(
                    f"{time.monotonic() - began_s:.0f} s: {dict(run.done)}, {sum(load.sent.values())} requests sent, "
                    f"{len(load.failures)} failed"
                )
            await asyncio.sleep(max(0.0, began_s + seconds - time.monotonic()))
        finally:
            load.stop()
            await loading
        books = await sums_of(replicas, provider_url, sum(load.sent.values()))
        logged = [line for replica in replicas for line in replica.complaints()]
    return Outcome(run.done, load.sent, load.failures, books, logged)


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.command()
@click.option("--seconds", type=click.FloatRange(1, MOST_SECONDS), default=600.0, show_default=True)
@click.option("--rate", type=click.FloatRange(1, 200), default=50.0, show_default=True, help="Requests a second.")
@click.option("--reloads", type=click.IntRange(1, 200), default=20, show_default=True)
@click.option("--restarts", type=click.IntRange(0, 20), default=3, show_default=True)
def main(seconds: float, rate: float, reloads: int, restarts: int) -> None:
    """Operate two gateways under load, and compare the books."""
    with tempfile.TemporaryDirectory(prefix="ops-") as folder:
        outcome = asyncio.run(operate(Path(folder), seconds, rate, reloads, restarts))
    done = ", ".join(f"{count} {name}" for name, count in outcome.done.items())
    click.echo(f"{outcome.sent['stream']} streams, {outcome.sent['whole']} whole answers; {done}")
    books = outcome.books
    click.echo(f"audit {books.audit}, ledger {books.ledger_tokens} tokens, provider {books.provider}")
    if outcome.problems:
        raise click.ClickException("\n".join(outcome.problems[:50]))
    click.echo("no failed request, no cut stream; the books agree")


if __name__ == "__main__":
    main()
