"""The bell between processes: heard by all who listen, harmless where nobody does."""

import asyncio
from pathlib import Path

from extproc.paths import Paths
from extproc.process.doorbell import Bell, ring

LONG_S = 30.0


def _paths(tmp_path: Path) -> Paths:
    paths = Paths.of(tmp_path)
    paths.sockets.mkdir(parents=True, exist_ok=True)
    return paths


async def _hears(bell: Bell) -> bool:
    task = asyncio.create_task(bell.wait(LONG_S))
    done, _ = await asyncio.wait({task}, timeout=LONG_S / 2)
    task.cancel()
    return bool(done)


def test_every_listener_hears_it(tmp_path: Path) -> None:
    async def run() -> None:
        paths = _paths(tmp_path)
        bells = [Bell(paths.bell_socket(index)) for index in (0, 1, 11)]
        ring(paths)
        assert all([await _hears(bell) for bell in bells])
        for bell in bells:
            bell.close()

    asyncio.run(run())


def test_rings_that_came_before_the_wait_count_once(tmp_path: Path) -> None:
    async def run() -> None:
        paths = _paths(tmp_path)
        bell = Bell(paths.bell_socket(0))
        for _ in range(1_000):  # more than a socket's queue holds: nobody waits for a listener
            ring(paths)
        assert await _hears(bell)
        waiting = asyncio.create_task(bell.wait(LONG_S))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        ring(paths)
        await asyncio.wait_for(waiting, LONG_S / 2)
        bell.close()

    asyncio.run(run())


def test_what_a_killed_process_left_is_no_hindrance(tmp_path: Path) -> None:
    async def run() -> None:
        paths = _paths(tmp_path)
        Bell(paths.bell_socket(0)).close()  # its file stays
        ring(paths)
        bell = Bell(paths.bell_socket(0))
        ring(paths)
        assert await _hears(bell)
        bell.close()

    asyncio.run(run())


def test_without_listeners_or_directory_nothing_happens(tmp_path: Path) -> None:
    ring(Paths.of(tmp_path / "nowhere"))
    ring(_paths(tmp_path))


def test_a_wait_ends_by_itself(tmp_path: Path) -> None:
    async def run() -> None:
        bell = Bell(_paths(tmp_path).bell_socket(0))
        await bell.wait(0.01)
        bell.close()

    asyncio.run(run())
