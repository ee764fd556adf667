"""How fast a provider that fails is routed around, and what clients see of it: the real stack, from its own audit rows.

In: `python -m bench.failover [--only CASE] [--trials N] [--abreast N]`. A gateway with two workers, a provider process
that can be broken and one that is well; so many requests a second for a model of the first, at even pace; then the
fault, for as long as it takes to see a probe; then its end, until the first answers again. Trials abreast are providers
of their own (clusters, circuits) in the one process. Out: a table of what `read` finds in the journal's rows.
"""

import asyncio
import contextlib
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import click
import msgspec
import yaml

from bench.readings import HEAD, Reading, Trial, read, row, written
from bench.stack import HOST, await_ready, child, connects, free_ports
from control.command import gateway
from extproc.paths import Paths
from extproc.routing.health import Standings

TEAM_KEY, PROVIDER_KEY = "sk-failover-team", "sk-failover-provider"
BREAKER = {"open_for": "3s"}  # not 15: a trial is to see probes; all else is as it comes
_BACK_S = 30.0
_SETTLED_S = 60.0  # for the last rows


class Case(msgspec.Struct, frozen=True):
    """What happens to the provider. `rule`: of the simulator's; None: it is killed."""

    name: str
    rule: dict[str, Any] | None
    rate: float = 20.0
    fault_s: float = 8.0


CASES = (
    Case("killed", None),
    Case("hanging", {"hang": "before_headers"}, fault_s=10.0),
    Case("100 % 500s", {"status": 500}),
    Case("100 % 429s", {"status": 429, "retry_after": "1"}),
    Case("50 % 500s", {"status": 500, "probability": 0.5}),
    Case("slow (3 s)", {"first_byte_ms": 3000}, fault_s=10.0),
    Case("50 % 500s, 200/s", {"status": 500, "probability": 0.5}, rate=200.0),
)


class Provider:
    """The process that is broken."""

    def __init__(self, folder: Path, port: int, seed: int) -> None:
        self._log = folder / "sick.log"
        self.port = port
        self._seed = seed
        self._held: contextlib.ExitStack | None = None
        self._process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Return when it answers."""
        self._held = contextlib.ExitStack()
        self._process = self._held.enter_context(child(self._log, _simulator(self.port, self._seed)))
        await_ready(self._log, self._process, lambda: connects(self.port))

    def stop(self) -> None:
        """End it."""
        if self._held is not None:
            self._held.close()
            self._held = None

    async def break_(self, case: Case) -> None:
        """Let the case begin."""
        if case.rule is None:
            self._process.kill()
            self._process.wait()
        else:
            await self._faults([case.rule])

    async def heal(self, case: Case) -> None:
        """Let it end."""
        if case.rule is None:
            self.stop()
            await asyncio.to_thread(self.start)
        else:
            await self._faults([])

    async def _faults(self, rules: list[dict[str, Any]]) -> None:
        url = f"http://{HOST}:{self.port}/_demo/faults"
        async with aiohttp.ClientSession() as session, session.put(url, json=rules) as answer:
            answer.raise_for_status()


def _simulator(port: int, seed: int = 0) -> tuple[str, ...]:
    return gateway("demo", "--listen", f"{HOST}:{port}", "--api-key", PROVIDER_KEY, "--seed", str(seed))


class Stack(msgspec.Struct, frozen=True):
    """What runs."""

    url: str
    paths: Paths
    sick: Provider


@contextlib.contextmanager
def running(folder: Path, abreast: int, seed: int) -> Iterator[Stack]:
    """Start everything in `folder`; end everything. Raises StackError."""
    port, sick_port, well_port = free_ports(3)
    file, log, sick = folder / "gateway.yaml", folder / "gateway.log", Provider(folder, sick_port, seed)
    file.write_text(yaml.safe_dump(_config(port, sick_port, well_port, str(folder / "data"), abreast)))
    with contextlib.ExitStack() as ending:
        sick.start()
        ending.callback(sick.stop)
        well = ending.enter_context(child(folder / "well.log", _simulator(well_port)))
        await_ready(folder / "well.log", well, lambda: connects(well_port))
        whole = ending.enter_context(child(log, gateway("up", "--config", str(file), "--with-parent")))
        await_ready(log, whole, lambda: "ready http://" in log.read_text())
        yield Stack(f"http://{HOST}:{port}", Paths.of(folder / "data"), sick)


def _config(port: int, sick_port: int, well_port: int, data_dir: str, abreast: int) -> dict[str, Any]:
    def provider(port: int) -> dict[str, Any]:
        return {"format": "openai", "base_url": f"http://{HOST}:{port}/v1", "credential": PROVIDER_KEY}

    sick = [(f"model-{number}", f"sick-{number}") for number in range(abreast)]
    price = {"input": 1.0, "output": 4.0}
    return {
        "listen": {"port": port},
        "data_dir": data_dir,
        "workers": 2,
        "breaker": BREAKER,
        "providers": {name: provider(sick_port) for _, name in sick} | {"well": provider(well_port)},
        "models": [{"name": model, "provider": name, "price": price} for model, name in (*sick, ("stand-in", "well"))],
        "equivalents": [{"models": [model, "stand-in"]} for model, _ in sick],
        "teams": [{"id": "failover", "keys": [TEAM_KEY]}],
    }


class Traffic:
    """So many requests a second for one model, whatever becomes of those before."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str, rate: float, draw: random.Random) -> None:
        self._session, self._url, self._model, self._rate = session, f"{url}/v1/chat/completions", model, rate
        self._offset_s = draw.random() / rate
        self._stop = False
        self.sent = 0
        self.lately: list[str] = []  # models that answered, the last eight

    def stop(self) -> None:
        """Ask no more."""
        self._stop = True

    async def run(self) -> None:
        """Until stopped and all is answered."""
        due_s = time.monotonic() + self._offset_s
        async with asyncio.TaskGroup() as group:
            while not self._stop:
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                self.sent += 1
                group.create_task(self._ask(self.sent))
                due_s += 1 / self._rate

    async def _ask(self, number: int) -> None:
        body = {"model": self._model, "messages": [{"role": "user", "content": f"Request {number}"}]}
        model = ""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self._session.post(self._url, json=body, headers={"authorization": f"Bearer {TEAM_KEY}"}) as got:
                await got.read()
                model = got.headers.get("x-gateway-model", "")
        self.lately = [*self.lately, model][-8:]

    @property
    def at_home(self) -> bool:
        """Whether the model itself answers, one request after the other."""
        return self.lately == [self._model] * 8


class Watch:
    """What workers were told: of each provider, since when and until when to keep away."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.now = Standings()
        self.waits: dict[str, list[tuple[float, float]]] = {}

    async def run(self) -> None:
        """Look a hundred times a second, until cancelled."""
        while True:
            with contextlib.suppress(OSError):
                self.now = msgspec.json.decode(self._path.read_bytes(), type=Standings)
            for key, circuit in self.now.circuits.items():
                if circuit.state == "open":
                    self._add(key.partition("/")[0], circuit.since_s, circuit.until_s)
            for name, until_s in self.now.limited_until_s.items():
                self._add(name, time.time(), until_s)
            await asyncio.sleep(0.01)

    def _add(self, provider: str, since_s: float, until_s: float) -> None:
        known = self.waits.setdefault(provider, [])
        if not known or (until_s > known[-1][1] and since_s > known[-1][1]):
            known.append((since_s, until_s))

    def clear_of(self, provider: str) -> bool:
        """Whether nothing keeps anybody away."""
        return all(key.partition("/")[0] != provider for key in self.now.circuits) and (
            self.now.limited_until_s.get(provider, 0.0) < time.time()
        )


async def measure(case: Case, before_s: float, abreast: int, seed: int) -> list[Reading]:
    """Trials of a case, abreast. Raises StackError, TimeoutError."""
    with tempfile.TemporaryDirectory(prefix="failover-") as folder, running(Path(folder), abreast, seed) as stack:
        draw, watch = random.Random(seed), Watch(stack.paths.standings)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
            watching = group.create_task(watch.run())
            traffic = {
                f"sick-{number}": Traffic(session, stack.url, f"model-{number}", case.rate, draw)
                for number in range(abreast)
            }
            loads = [group.create_task(each.run()) for each in traffic.values()]
            await asyncio.sleep(before_s)
            broken_s = time.time()
            await stack.sick.break_(case)
            await asyncio.sleep(case.fault_s)
            await stack.sick.heal(case)
            healed_s = time.time()
            backs = [_back(name, each, watch) for name, each in traffic.items()]
            closed_s = dict(zip(traffic, await asyncio.gather(*backs), strict=True))
            for each in traffic.values():
                each.stop()
            await asyncio.gather(*loads)
            async with asyncio.timeout(_SETTLED_S):
                sent = sum(each.sent for each in traffic.values())
                while written(stack.paths.journal) < sent:  # noqa: ASYNC110 - nor does a journal
                    await asyncio.sleep(0.1)
            watching.cancel()
        trials = [
            Trial(name, f"model-{number}", broken_s, healed_s, closed_s[name], watch.waits.get(name, []))
            for number, name in enumerate(traffic)
        ]
        return [read(stack.paths.journal, trial) for trial in trials]


async def _back(provider: str, traffic: Traffic, watch: Watch) -> float:
    """When it is in use again."""
    async with asyncio.timeout(_BACK_S):
        while not (watch.clear_of(provider) and traffic.at_home):  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.02)
    return time.time()


@click.command(help=__doc__)
@click.option("--only", multiple=True, type=click.Choice([case.name for case in CASES]))
@click.option("--trials", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--abreast", type=click.IntRange(1, 20), default=1, show_default=True, help="Trials at the same time.")
@click.option("--before", type=click.FloatRange(5, 120), default=60.0, show_default=True, help="Seconds that are well.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the faults' chance.")
def main(only: Sequence[str], trials: int, abreast: int, before: float, seed: int) -> None:
    """Run the cases and print the table."""
    click.echo(HEAD)
    for case in CASES:
        if not only or case.name in only:
            found: list[Reading] = []
            while len(found) < trials:
                found += asyncio.run(measure(case, before, min(abreast, trials - len(found)), seed + len(found)))
            click.echo(row(case.name, found))


if __name__ == "__main__":
    main()
