"""One child process, kept alive: started, watched, restarted with back-off, stopped.

In: a `Process` to run. Out: a `Child` that runs it until told to stop. Called by `gateway up`. A child leads a process
group of its own, so that Ctrl-C in a terminal reaches only the supervisor, which then ends the children in order; and
the kernel kills it when the supervisor is killed, so that nothing is orphaned.
"""

import asyncio
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from control.output import Lines, Rewrite, Stderr
from control.silence import SILENT_S, Ask, until_silent

_log = logging.getLogger(__name__)

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
HEALTHY_AFTER_S = 30.0
_PR_SET_PDEATHSIG = 1


class Process(msgspec.Struct, frozen=True):
    """What to run. `grace_s`: how long it may take to end after SIGTERM before it is killed. `farewell`: asked first,
    of one that is slow to hear a signal: whether it will end. `ask`: whether it answers; one that does not for
    `silent_s` is killed, and so started again."""

    name: str
    argv: tuple[str, ...]
    grace_s: float = 5.0
    farewell: Callable[[], Awaitable[bool]] | None = None  # may raise OSError
    ask: Ask | None = None
    silent_s: float = SILENT_S
    rewrite: Rewrite | None = None  # of each line of one that logs to stdout, in a form of its own


def next_delay_s(previous_s: float, lived_s: float) -> float:
    """How long to wait before a restart: 0.1 s, doubling to 5 s; from the start again after a life of 30 s."""
    if lived_s >= HEALTHY_AFTER_S or previous_s == 0:
        return FIRST_DELAY_S
    return min(LONGEST_DELAY_S, previous_s * 2)


class Child:
    """Keeps one `Process` running from `start` to `stop`."""

    def __init__(self, process: Process, env: Mapping[str, str], stderr: Stderr) -> None:
        self.process = process
        self.deaths = 0
        self.last_end = ""
        self.lines = Lines(stderr, process.rewrite)
        self._env = env
        self._running: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._output, self._input = os.pipe()
        os.set_blocking(self._output, False)

    def start(self) -> None:
        """Start it, and again whenever it ends."""
        asyncio.get_running_loop().add_reader(self._output, self._read)
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after the grace time. Returns when it is gone."""
        self._stopping.set()
        if not await self._bidden():
            self.signal(signal.SIGTERM)
        if self._task is not None:
            done, _ = await asyncio.wait({self._task}, timeout=self.process.grace_s)
            if not done:
                _log.warning("child does not end; killing it", extra={"child": self.process.name})
                await self.kill()
        self._close()

    async def _bidden(self) -> bool:
        try:
            return self.process.farewell is not None and await self.process.farewell()
        except OSError:  # TimeoutError is one
            return False

    async def kill(self) -> None:
        """SIGKILL, now. Returns when it is gone."""
        self._stopping.set()
        self.signal(signal.SIGKILL)
        if self._task is not None:
            await asyncio.wait({self._task})
        self._close()

    def signal(self, number: int) -> None:
        """Send a signal to the child and its own children."""
        if self._running is not None and self._running.returncode is None:
            try:
                os.killpg(self._running.pid, number)
            except ProcessLookupError:
                return

    async def _keep(self) -> None:
        delay_s = 0.0
        while not self._stopping.is_set():
            started = time.monotonic()
            end = await self._run_once()
            if self._stopping.is_set():
                return
            delay_s = next_delay_s(delay_s, time.monotonic() - started)
            self.deaths += 1
            self.last_end = end
            _log.warning(
                "child ended; restarting it", extra={"child": self.process.name, "end": end, "restart_in_s": delay_s}
            )
            try:
                await asyncio.wait_for(self._stopping.wait(), delay_s)
            except TimeoutError:
                continue

    async def _run_once(self) -> str:
        """Run it to its end. Returns how it ended, in words."""
        try:
            self._running = await asyncio.create_subprocess_exec(
                *self.process.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=self._input
                if self.process.rewrite
                else asyncio.subprocess.DEVNULL,  # ours is for the ready line
                stderr=self._input,
                env=dict(self._env),
                process_group=0,
                preexec_fn=_die_with(os.getpid()),
            )
        except OSError as error:
            return f"could not be started: {error}"
        if self._stopping.is_set():  # told to stop while it was being started
            self.signal(signal.SIGTERM)
        asking = asyncio.create_task(self._kill_if_silent(self.process.ask)) if self.process.ask else None
        try:
            return _how(await self._running.wait())
        finally:
            if asking is not None:
                asking.cancel()

    async def _kill_if_silent(self, ask: Ask) -> None:
        await until_silent(ask, self.process.silent_s)
        _log.error(
            "child answers no more; killing it", extra={"child": self.process.name, "silent_s": self.process.silent_s}
        )
        self.signal(signal.SIGKILL)

    def _read(self) -> None:
        try:
            self.lines.feed(os.read(self._output, 65536))
        except BlockingIOError:
            return

    def _close(self) -> None:
        if self._output < 0:
            return
        self._read()
        asyncio.get_running_loop().remove_reader(self._output)
        os.close(self._output)
        os.close(self._input)
        self._output = self._input = -1


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def _die_with(parent: int) -> Callable[[], None] | None:
    """A function that the child runs before it becomes its program: the kernel kills it when `parent` ends."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def set_death_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended in between
            os._exit(1)

    return set_death_signal
