"""`make soak`: the whole gateway under steady, mixed load for long. No request may fail, no process may grow.

In: how many seconds (24 h by default). Out: a line every 15 s; exit code 1 with what went wrong. Whole answers, native
and translated streams, and clients that leave, at a rate that leaves the machine room; it ends by itself.
"""

import asyncio
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click
import psutil

from bench import closed
from bench.closed import Pace, Tally
from bench.scenarios import SCENARIOS
from bench.stack import gateway_at, provider_at

DAY_S = 86_400.0
MOST_REQUESTS = 100_000_000
SLICE_S = 15.0
PAUSE_S = 0.05  # between two requests of a connection
GROWTH = 1.10  # of the last fifth's memory over the second fifth's; the first warms up
SLACK_BYTES = 8_000_000
# Scenario, connections, and every how many requests the client leaves early.
MIX = (("plain-167", 4, 0), ("stream-20", 4, 7), ("translated-stream-20", 3, 5), ("translated-plain-167", 2, 0))


@click.command()
@click.option("--seconds", type=click.FloatRange(60, 7 * DAY_S), default=DAY_S, show_default=True)
@click.option("--transport", type=click.Choice(["lean", "grpcio"]), default="lean", show_default=True)
def main(seconds: float, transport: str) -> None:
    """Run the gateway under load until the time is over or something is wrong."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, ExitStack() as ending:
        provider = ending.enter_context(provider_at(Path(folder), gap_ms=1))
        gateway = ending.enter_context(
            gateway_at(Path(folder), provider.port, name="soak", transport=transport, retention="10m")
        )
        tally, sizes = Tally(), {role: [_rss(process)] for role, process in gateway.processes.items()}
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0 and tally.sent < MOST_REQUESTS:
            asyncio.run(_mixed(gateway.port, tally, min(SLICE_S, left_s)))
            for role, process in gateway.processes.items():
                sizes[role].append(_rss(process))
            _say(tally, sizes, left_s)
            if tally.errors:
                break
        log = (Path(folder) / "soak.log").read_text(errors="replace")
    problems = [f"{count} x {error}" for error, count in tally.errors.items()] + grown(sizes)
    problems += [line for line in log.splitlines() if '"level":"error"' in line][:20]
    if problems:
        raise click.ClickException("\n".join(problems))
    click.echo(f"{tally.sent} requests, {tally.left_early} of them left early; no error, no growth")


def grown(sizes: dict[str, list[int]]) -> list[str]:
    """Processes whose memory is not flat. Shorter than ten samples: nothing can be said."""
    found = []
    for role, values in sizes.items():
        fifth = len(values) // 5
        if fifth < 2:
            continue
        early, late = statistics.median(values[fifth : 2 * fifth]), statistics.median(values[-fifth:])
        if late > early * GROWTH + SLACK_BYTES:
            found.append(f"{role} grew from {early / 1e6:.0f} to {late / 1e6:.0f} MB")
    return found


async def _mixed(port: int, tally: Tally, seconds: float) -> None:
    by_name = {item.name: item for item in SCENARIOS}
    tally.took_ms.clear()
    asked = (
        closed.run(port, by_name[name], tally, Pace(seconds, PAUSE_S, leave), connections=connections, start=tally.sent)
        for name, connections, leave in MIX
    )
    await asyncio.gather(*asked)


def _rss(process: psutil.Process) -> int:
    return int(process.memory_info().rss)


def _say(tally: Tally, sizes: dict[str, list[int]], left_s: float) -> None:
    memory = ", ".join(f"{role} {values[-1] / 1e6:.0f}" for role, values in sizes.items())
    p50_ms = statistics.median(tally.took_ms) if tally.took_ms else float("nan")
    click.echo(f"{left_s:.0f} s left, {tally.sent} requests, p50 {p50_ms:.1f} ms; MB: {memory}")


if __name__ == "__main__":
    main()
