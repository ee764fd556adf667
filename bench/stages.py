"""Where a worker's time goes, by stage: `python -m bench stages`. Sampled from outside by py-spy, so a worker that is
not looked at does nothing for it.

In: a scenario. Out: lines of a table: each stage's share of the samples in which the worker ran, and that share of its
CPU per request. A sample belongs to the innermost frame that is of a stage; what is of none is the event loop's.
"""

import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import uvloop

from bench import closed, usage
from bench.closed import Pace, Tally
from bench.scenarios import SCENARIOS
from bench.stack import gateway_at, provider_at

_CONNECTIONS = 16
_SAMPLES_PER_S = 500
_WARM_UP_S = 1.0
# The first that fits a frame, as py-spy writes it: `function (file:line)`.
STAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("write to a socket", ("_Peer.wake (", "_Link._flush (")),
    ("transport", ("(extproc/transport/", "(extproc/exchange/server.py")),
    ("messages of Envoy", tuple(f"(extproc/exchange/{name}.py" for name in ("frames", "protowire", "replies"))),
    ("authenticate", ("(extproc/auth.py", "(extproc/admission.py")),
    ("read", ("(extproc/chat.py",)),
    ("cache", ("(extproc/cache/",)),
    ("route", ("(extproc/routing/",)),
    ("count tokens", ("(extproc/tokens.py", "(extproc/bounds.py", "(extproc/media.py")),
    ("reserve", ("(extproc/budget/", "(extproc/state/pipe.py")),
    ("shape, translate", ("(extproc/adapters/", "(extproc/body/", "(extproc/plan.py")),
    ("answer", ("(extproc/answer.py",)),
    ("exchange, pipeline", ("(extproc/exchange/", "(extproc/pipeline.py")),
)
REST = "event loop, other system calls"


def measure(sampler: str, name: str, seconds: float) -> Iterator[str]:
    """Lines of the table. Raises StackError; OSError without the sampler."""
    scenario = next(item for item in SCENARIOS if item.name == name)
    with tempfile.TemporaryDirectory(prefix="bench-") as made, ExitStack() as ending:
        folder, tally = Path(made), Tally()
        provider = ending.enter_context(provider_at(folder, 5))
        gateway = ending.enter_context(gateway_at(folder, provider.port, name="gateway", workers=1))
        count = scenario.connections or _CONNECTIONS
        uvloop.run(closed.run(gateway.port, scenario, Tally(), Pace(_WARM_UP_S), connections=count))
        worker = gateway.processes["worker 0"]
        raw = folder / "samples"
        command = (sampler, "record", "--pid", str(worker.pid), "--duration", str(round(seconds)), "--native")
        options = ("--rate", str(_SAMPLES_PER_S), "--format", "raw", "--output", str(raw))
        before = usage.snapshot(gateway.processes)
        with (folder / "sampler.log").open("wb") as log:
            sampling = subprocess.Popen((*command, *options), stdout=log, stderr=log)
        uvloop.run(closed.run(gateway.port, scenario, tally, Pace(seconds), connections=count, start=500_000))
        sampling.wait()
        time.sleep(_WARM_UP_S)
        used = usage.since(before, gateway.processes)["worker 0"]
        if not raw.exists():
            raise OSError((folder / "sampler.log").read_text())
        yield from table(raw.read_text().splitlines(), 1e6 * used.cpu_s / max(1, tally.sent))


def table(samples: Iterable[str], cpu_us: float) -> Iterator[str]:
    """`samples`: py-spy's raw format, `outermost;…;innermost count`; `cpu_us`: of the worker, per request."""
    found: Counter[str] = Counter()
    for line in samples:
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if not frames[-1].startswith("epoll_"):  # waits
            found[stage_of(frames)] += int(count)
    total = sum(found.values())
    yield f"{'stage':32}{'share':>8}{'µs a request':>14}"
    for stage, hits in found.most_common():
        yield f"{stage:32}{100 * hits / total:7.1f}%{cpu_us * hits / total:14.0f}"
    yield f"{'all':32}{'':8}{cpu_us:14.0f}"


def stage_of(frames: Iterable[str]) -> str:
    """The stage of a stack, from its innermost frame outwards."""
    for frame in reversed(list(frames)):
        for stage, marks in STAGES:
            if any(mark in frame for mark in marks):
                return stage
    return REST
