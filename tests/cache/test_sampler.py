"""The request that checks a semantic hit: what it carries, and how many there may be."""

import asyncio
import logging
from pathlib import Path

import msgspec
import pytest

from extproc.cache.sampler import Sampler
from extproc.settings import Semantic

BODY = b'{"model": "gpt", "stream": true, "stream_options": {"include_usage": true}, "messages": [], "temperature": 0}'
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"authorization": "Bearer sk-a", "cookie": "no", "x-gw-worker": "1"}


class Door:
    """What listens where the gateway would."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self._path = path
        self.seen: asyncio.Queue[bytes] = asyncio.Queue()
        self._answer = answer

    async def __aenter__(self) -> None:
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        await self.seen.put(head + await reader.readexactly(length))
        writer.write(self._answer)
        writer.close()


async def test_it_asks_as_the_client_did_at_low_priority_past_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "door.sock"
    door = Door(path, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    async with door:
        sampler = Sampler(path, Semantic)
        running = asyncio.create_task(sampler.run())
        assert sampler.ask(HEADERS, BODY)
        head, _, body = (await door.seen.get()).partition(b"\r\n\r\n")
        running.cancel()
    sent = msgspec.json.decode(body)
    assert sent == {"model": "gpt", "stream": False, "messages": [], "temperature": 0, "metadata": {"priority": "low"}}
    assert b"authorization: Bearer sk-a" in head
    assert b"cache-control: no-cache" in head
    assert b"cookie" not in head
    assert b"x-gw" not in head


async def test_it_goes_on_after_nonsense_and_after_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    named = HEADERS | {"x-request-id": "r7", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    path = tmp_path / "door.sock"
    nonsense, good = Door(path, b"nonsense\r\n"), Door(path, b"HTTP/1.1 429 Too Many\r\n\r\n")
    async with nonsense:
        sampler = Sampler(path, Semantic)
        running = asyncio.create_task(sampler.run())
        sampler.ask(named, BODY)
        await nonsense.seen.get()
    sampler.ask(named, BODY)  # nobody is there any more
    async with good:
        sampler.ask(named, BODY)
        await asyncio.wait_for(good.seen.get(), 10)
        async with asyncio.timeout(10):
            while len(caplog.records) < 3:  # noqa: ASYNC110 - a log line tells nobody
                await asyncio.sleep(0.01)
    assert not running.done()
    running.cancel()
    told = [vars(record) for record in caplog.records]
    assert [(line["request_id"], line["trace_id"]) for line in told] == [("r7", TRACE)] * 3


def test_so_many_a_minute() -> None:
    now = 0.0
    sampler = Sampler(Path("none.sock"), lambda: Semantic(samples_per_minute=2), lambda: now)
    assert [sampler.ask(HEADERS, BODY) for _ in range(3)] == [True, True, False]
    now = 61.0
    assert sampler.ask(HEADERS, BODY)


def test_what_would_wait_too_long_is_left_out() -> None:
    sampler = Sampler(Path("none.sock"), lambda: Semantic(samples_per_minute=100), lambda: 0.0)
    assert sum(sampler.ask(HEADERS, BODY) for _ in range(20)) == 8
