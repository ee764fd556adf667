"""A process that can be asked: left alone while it answers, starts or ends; found when it hangs."""

import asyncio
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from control.hello import speaks_http2
from control.silence import until_silent

SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
SILENT_S = 0.2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "it.sock"


@pytest.fixture
def deaf(path: Path) -> Iterator[None]:
    """Its connections are taken by the kernel and by nobody else; the queue is soon full."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(1)
        yield


def watched(path: Path) -> "asyncio.Task[None]":
    return asyncio.create_task(until_silent(partial(speaks_http2, path), SILENT_S))


async def still_waits(task: "asyncio.Task[None]") -> bool:
    await asyncio.sleep(5 * SILENT_S)
    waits = not task.done()
    task.cancel()
    return waits


async def test_one_that_falls_silent_is_found(path: Path) -> None:
    asked, mute = asyncio.Event(), False

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        if not mute:
            writer.write(SETTINGS)
        asked.set()

    async with await asyncio.start_unix_server(answer, path):
        task = watched(path)
        await asked.wait()
        mute = True
        async with asyncio.timeout(15):
            await task


async def test_one_that_answers_is_left_alone(path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(SETTINGS)

    async with await asyncio.start_unix_server(answer, path):
        assert await still_waits(watched(path))


async def test_one_that_does_not_listen_is_left_alone(path: Path) -> None:
    assert await still_waits(watched(path))


@pytest.mark.usefixtures("deaf")
async def test_one_whose_queue_is_full_is_found(path: Path) -> None:
    async with asyncio.timeout(15):
        await asyncio.gather(*(watched(path) for _ in range(4)))
