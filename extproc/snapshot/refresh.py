"""Keeps a process's snapshot fresh: new settings from the runtime file, changed teams from the shared state.

In: the runtime file (replaced by rename when gateway.yaml is reloaded) and `shared`. Out: `Current`, swapped. Looks
twice a second, so that a change, or the end of a key, is in force everywhere within a second, and a worker at the bell
that a reload rings, and control after a change; a look is one `stat` and one round trip. While the shared state is away
the last changes stay in force, and a process that starts meanwhile finds them in `data_dir`/overrides.json, which the
settler (one beside each Envoy) keeps.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from extproc import runtime
from extproc.paths import Paths
from extproc.process.beat import beat
from extproc.process.doorbell import Bell
from extproc.process.files import replace_file, stamp_of
from extproc.process.logs import Trouble
from extproc.settings import Settings
from extproc.snapshot import shared
from extproc.snapshot.current import Current, compile_snapshot
from extproc.snapshot.overrides import NONE, Overrides
from extproc.state import State

log = logging.getLogger(__name__)

EVERY_S = 0.5


class Refresher:
    """`keep`: write what was read to `data_dir`, for processes that start while the shared state is away."""

    def __init__(
        self,
        current: Current,
        client: State,
        paths: Paths,
        *,
        keep: bool = False,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._current = current
        self._client = client
        self._paths = paths
        self._keep = keep
        self._wall_s = wall_s
        self._stamp = stamp_of(paths.runtime)
        self._away = Trouble(
            log, "run-time changes cannot be read; the last ones stay", "run-time changes are read again"
        )
        self._unwritten = Trouble(log, "run-time changes cannot be kept", "run-time changes are kept", logging.ERROR)
        self._looking = asyncio.Lock()

    async def start(self) -> None:
        """Take over what was changed before this process began; to be awaited before it serves."""
        await self.step()
        if self._away.lasts:
            await self._compile(self._current.snapshot.configured, kept(self._paths.overrides))
        else:
            await self._write()

    async def run(self, bell: Bell | None = None) -> None:
        """Look, at once whenever the bell is rung, until cancelled."""
        while True:
            await (bell.wait(EVERY_S) if bell else beat(EVERY_S))
            await self.step()

    async def step(self) -> None:
        """Look once."""
        async with self._looking:
            await self._look_at_file()
            await self._look_at_state()
            await self._look_at_clock()

    async def _look_at_file(self) -> None:
        stamp = stamp_of(self._paths.runtime)
        if stamp is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            settings = await asyncio.to_thread(runtime.read, self._paths.runtime)
        except (OSError, ValueError) as error:
            log.error("runtime file cannot be read", extra={"reason": str(error)})
            return
        await self._compile(settings, self._current.snapshot.overrides)
        log.info("configuration reloaded")

    async def _look_at_state(self) -> None:
        try:
            overrides = await shared.read(self._client, self._current.snapshot.overrides.version)
        except (shared.SharedStateUnavailable, msgspec.DecodeError, ValueError) as error:
            self._away.seen(error)
            return
        self._away.over()
        if overrides is not None:
            await self._compile(self._current.snapshot.configured, overrides)
            log.info("run-time changes in force", extra={"version": overrides.version})
        if overrides is not None or self._unwritten.lasts:
            await self._write()

    async def _look_at_clock(self) -> None:
        snapshot = self._current.snapshot
        if snapshot.until_s is not None and self._wall_s() >= snapshot.until_s:
            await self._compile(snapshot.configured, snapshot.overrides)
            log.info("a key has ended")

    async def _compile(self, configured: Settings, overrides: Overrides) -> None:
        # It takes a while with many teams: not on the event loop.
        self._current.swap(await asyncio.to_thread(compile_snapshot, configured, overrides, self._wall_s()))

    async def _write(self) -> None:
        if not self._keep:
            return
        data = msgspec.json.encode(self._current.snapshot.overrides)
        try:
            await asyncio.to_thread(replace_file, self._paths.overrides, data)
        except OSError as error:
            self._unwritten.seen(error)
        else:
            self._unwritten.over()


def kept(path: Path) -> Overrides:
    """What `keep` wrote; none, if there is no such file or it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Overrides)
    except FileNotFoundError:
        return NONE
    except (OSError, msgspec.DecodeError) as error:
        log.error("kept run-time changes cannot be read", extra={"reason": str(error)})
        return NONE
