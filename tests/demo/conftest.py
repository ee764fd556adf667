"""A simulator in the test's own loop, and plain HTTP to it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from control.demo.server import DemoProvider
from control.demo.simulator import Options


@pytest.fixture
async def demo() -> AsyncIterator[DemoProvider]:
    async with DemoProvider(options=Options(record_bodies=True)) as provider:
        yield provider


@pytest.fixture
async def http(demo: DemoProvider) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=demo.url, timeout=20, verify=False) as client:
        yield client


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Waits until a condition holds; fails after a generous time."""

    async def wait(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110 - the simulator has no events to wait for, on purpose
                await asyncio.sleep(0.001)

    return wait
