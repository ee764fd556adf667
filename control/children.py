"""All children of one supervisor: started in order, kept, ended in order.

In: the processes, and what is awaited of them. Out: an exit code when all are gone. Used by `gateway up`, which keeps
every process of a gateway, and by the containers of a pod, each of which keeps some.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable

from control.output import Stderr
from control.ready import NotReadyError, Probe, state_probe, until_ready
from control.stop import Stop
from control.supervise import Child, Process
from extproc.paths import Paths

_log = logging.getLogger(__name__)

# Who ends together, by the first word of the name: the settler after all whose last entries it is to settle.
_ENDS = (("envoy",), ("worker", "control", "demo"), ("settler",), ("valkey",))


class Children:
    """Kept alive from `start` to `stop`."""

    def __init__(self, processes: Iterable[Process], stderr: Stderr) -> None:
        self._stderr = stderr
        self._kept = {process.name: Child(process, os.environ, stderr) for process in processes}

    async def start(self, paths: Paths, wanted: list[Probe], timeout_s: float) -> None:
        """Valkey, then all others at once; returns when every probe passes. Raises NotReadyError."""
        began_s = time.monotonic()
        if "valkey" in self._kept:
            self._kept["valkey"].start()
            await until_ready([state_probe(paths)], self._kept, timeout_s, began_s=began_s)
        for name, child in self._kept.items():
            if name != "valkey":
                child.start()
        await until_ready(wanted, self._kept, timeout_s, began_s=began_s)

    def add(self, process: Process) -> None:
        """Start one more, unless it is there."""
        if process.name not in self._kept:
            self._kept[process.name] = Child(process, os.environ, self._stderr)
            self._kept[process.name].start()

    async def stop(self) -> None:
        """End all, in order."""
        for together in _ENDS:
            await asyncio.gather(*(kept.stop() for name, kept in self._kept.items() if name.split()[0] in together))

    async def kill(self) -> None:
        """End all, now."""
        await asyncio.gather(*(child.kill() for child in self._kept.values()))


async def run(
    children: Children, stop: Stop, stderr: Stderr, work: Awaitable[None], drain: Callable[[], Awaitable[None]]
) -> int:
    """Do `work` until told to stop, then drain and end. Returns the exit code: 0 after a stop, 1 if it never was ready
    or was not left to end in order."""
    code = 0
    try:
        await stop.or_first(work)
    except NotReadyError as error:
        stderr.write(f"error: {error}\n".encode())
        code = 1
    finished = await stop.or_second(_end(children, drain if code == 0 else None))
    if not finished:
        await children.kill()
        return 1
    return code


async def _end(children: Children, drain: Callable[[], Awaitable[None]] | None) -> None:
    _log.info("stopping")
    if drain is not None:
        await drain()
    await children.stop()
    _log.info("stopped")
