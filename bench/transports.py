"""Both transports side by side: CPU per request of each process, at 1, 16 and 64 connections.

In: a provider and a gateway for each transport, started here. Out: a table. Called by `python -m bench transports`.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil

from bench import closed, usage
from bench.closed import Pace, Tally
from bench.scenarios import SCENARIOS
from bench.stack import gateway_at, provider_at

TRANSPORTS = ("lean", "grpcio")
CONNECTIONS = (1, 16, 64)
_WARM_UP_S = 0.7
_FLUSH_S = 0.5


def measure(seconds: float, rounds: int) -> Iterator[str]:
    """Lines of the table, as they are found."""
    scenario = next(item for item in SCENARIOS if item.name == "plain-167")
    yield f"{'connections':>12}{'transport':>11}{'requests':>10}{'errors':>8}{'p50 ms':>8}  CPU µs per request"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as ending:
        provider = ending.enter_context(provider_at(Path(folder), gap_ms=0))
        running = {
            name: ending.enter_context(gateway_at(Path(folder), provider.port, name=name, transport=name))
            for name in TRANSPORTS
        }
        for connections in CONNECTIONS:
            for number in range(rounds):
                for name in TRANSPORTS[:: 1 if number % 2 else -1]:
                    port, processes = running[name].port, running[name].processes
                    asyncio.run(closed.run(port, scenario, Tally(), Pace(_WARM_UP_S), connections=connections))
                    time.sleep(_FLUSH_S)
                    tally, before = Tally(), usage.snapshot(processes)
                    asyncio.run(closed.run(port, scenario, tally, Pace(seconds), connections=connections))
                    time.sleep(_FLUSH_S)
                    yield _line(connections, name, tally, _by_kind(before, processes))


def _by_kind(before: usage.Snapshot, processes: dict[str, psutil.Process]) -> dict[str, float]:
    """CPU seconds; all workers together."""
    found: dict[str, float] = {}
    for role, used in usage.since(before, processes).items():
        kind = role.partition(" ")[0]
        found[kind] = found.get(kind, 0.0) + used.cpu_s
    return found


def _line(connections: int, name: str, tally: Tally, cpu_s: dict[str, float]) -> str:
    shown = ("worker", "settler", "envoy", "valkey-server")
    parts = [f"{kind} {1e6 * cpu_s.get(kind, 0.0) / tally.sent:.0f}" for kind in shown]
    p50_ms = statistics.median(tally.took_ms) if tally.took_ms else float("nan")
    errors = sum(tally.errors.values())
    return f"{connections:>12}{name:>11}{tally.sent:>10}{errors:>8}{p50_ms:>8.2f}  {', '.join(parts)}"
