"""The measuring: each scenario at each target, in rounds, one at a time.

In: the running stack and what to measure. Out: one `Run` per round, scenario and target. Targets take turns within a
round, and their order rotates from round to round, so that a slow stretch of a noisy machine hits none of them alone.
"""

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import msgspec
import uvloop

from bench import closed, scenarios, usage
from bench.load import Load, Result
from bench.scenarios import Scenario, TargetName
from bench.stack import HOST, Stack

_LOG_FLUSH_S = 0.4  # Envoy hands its access log entries over every 0.1 s
_SETTLE_S = 15.0
_START_S = 20.0
PERCENTILES = (50, 90, 99)

Say = Callable[[str], None]


class Latency(msgspec.Struct, frozen=True):
    """Percentiles in milliseconds, from the moment the request was due."""

    p50: float
    p90: float
    p99: float


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario at one target in one round."""

    scenario: str
    target: TargetName
    round: int  # from 1; 0: the long run at the end
    seconds: float
    sent: int
    errors: dict[str, int]
    total_ms: Latency | None  # None: nothing was answered right
    first_byte_ms: Latency | None
    late_ms: Latency | None  # the client's own lateness, part of both
    events: int
    body_bytes: int
    connections: int
    cpu_us: dict[str, float]  # per request, by role; everything a request causes, settling included
    rss_bytes: dict[str, int]
    client_cpu_us: float  # per request
    others_cores: float  # kept busy by what is neither the client nor the target's processes


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how often."""

    rounds: int
    seconds: float  # counted, of each run
    warm_up_s: float
    sustained_s: float  # of the long run at the end; 0: none


def measure(stack: Stack, chosen: Sequence[Scenario], pace: Pace, say: Say) -> list[Run]:
    """All runs, in the order they were made."""
    found = []
    for number, scenario in itertools.product(range(1, pace.rounds + 1), chosen):
        targets = [target for target in scenario.targets if target in stack.ports]
        turn = number % len(targets)
        for target in (*targets[turn:], *targets[:turn]):
            say(f"round {number}/{pace.rounds}: {scenario.name} at {target}")
            found.append(_run(stack, scenario, target, number, pace.seconds, pace.warm_up_s))
    if pace.sustained_s:
        scenario = next(item for item in scenarios.SCENARIOS if item.name == scenarios.SUSTAINED)
        say(f"{scenario.name} at gateway for {pace.sustained_s:g} s")
        found.append(_run(stack, scenario, "gateway", 0, pace.sustained_s, pace.warm_up_s))
    return found


def idle_cores(stack: Stack, seconds: float) -> dict[str, float]:
    """Cores that each process of the gateway keeps busy when nobody asks anything."""
    processes = stack.processes["gateway"]
    before = usage.snapshot(processes)
    time.sleep(seconds)
    return {role: used.cpu_s / seconds for role, used in usage.since(before, processes).items()}


def _run(stack: Stack, scenario: Scenario, target: TargetName, number: int, seconds: float, warm_up_s: float) -> Run:
    if scenario.connections:
        return _closed(stack, scenario, target, number, seconds, warm_up_s)
    load = Load(
        host=HOST,
        port=stack.ports[target],
        request=scenarios.request(scenario, target),
        last=scenarios.last(scenario, target),
        rate=scenario.rate,
        seconds=seconds,
        warm_up_s=warm_up_s,
        seed=number,
    )
    processes = stack.processes[target]
    before = usage.snapshot(processes)
    result = generate(load)
    time.sleep(_LOG_FLUSH_S)
    usage.wait_until_quiet(processes.values(), _SETTLE_S)
    used = usage.since(before, processes)
    own_cpu_s = sum(item.cpu_s for item in used.values()) + result.client_cpu_s
    return Run(
        scenario=scenario.name,
        target=target,
        round=number,
        seconds=seconds,
        sent=result.sent,
        errors=result.errors,
        total_ms=latency(result.total_us),
        first_byte_ms=latency(result.first_byte_us),
        late_ms=latency(result.late_us),
        events=result.events,
        body_bytes=result.body_bytes,
        connections=result.connections,
        cpu_us={role: item.cpu_s / max(1, result.sent) * 1e6 for role, item in used.items()},
        rss_bytes={role: item.rss_bytes for role, item in used.items()},
        client_cpu_us=result.client_cpu_s / max(1, result.sent) * 1e6,
        others_cores=usage.others_cores(before, usage.snapshot({}), own_cpu_s),
    )


def _closed(stack: Stack, scenario: Scenario, target: TargetName, number: int, seconds: float, warm_up_s: float) -> Run:
    """By connections: latencies flatter whoever stalls, and are there to be compared within a run."""
    port, processes, tally = stack.ports[target], stack.processes[target], closed.Tally()

    def ask(tally: closed.Tally, seconds: float, start: int) -> None:
        pace = closed.Pace(seconds)
        uvloop.run(
            closed.run(port, scenario, tally, pace, connections=scenario.connections, start=start, target=target)
        )

    ask(closed.Tally(), warm_up_s, 500_000)
    time.sleep(_LOG_FLUSH_S)
    usage.wait_until_quiet(processes.values(), _SETTLE_S)
    before, client_s = usage.snapshot(processes), time.process_time()
    ask(tally, seconds, 0)
    time.sleep(_LOG_FLUSH_S)
    usage.wait_until_quiet(processes.values(), _SETTLE_S)
    used, client_s = usage.since(before, processes), time.process_time() - client_s
    own_cpu_s = sum(item.cpu_s for item in used.values()) + client_s
    return Run(
        scenario=scenario.name,
        target=target,
        round=number,
        seconds=seconds,
        sent=tally.sent,
        errors=dict(tally.errors),
        total_ms=latency([round(1000 * took_ms) for took_ms in tally.took_ms]),
        first_byte_ms=None,
        late_ms=None,
        events=0,
        body_bytes=0,
        connections=scenario.connections,
        cpu_us={role: item.cpu_s / max(1, tally.sent) * 1e6 for role, item in used.items()},
        rss_bytes={role: item.rss_bytes for role, item in used.items()},
        client_cpu_us=client_s / max(1, tally.sent) * 1e6,
        others_cores=usage.others_cores(before, usage.snapshot({}), own_cpu_s),
    )


def generate(load: Load) -> Result:
    """Run `load` in a process of its own. Raises subprocess.SubprocessError."""
    answer = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=msgspec.json.encode(load),
        stdout=subprocess.PIPE,
        check=True,
        timeout=load.warm_up_s + load.seconds + load.grace_s + _START_S,
    )
    return msgspec.json.decode(answer.stdout, type=Result)


def latency(samples_us: list[int]) -> Latency | None:
    """Percentiles of samples in microseconds."""
    if not samples_us:
        return None
    ordered = sorted(samples_us)
    return Latency(*(percentile(ordered, percent) / 1000 for percent in PERCENTILES))


def percentile(ordered: Sequence[int], percent: int) -> int:
    """The smallest value that `percent` of a hundred are not above (nearest rank). `ordered` must not be empty."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
