"""Notices that gateway.yaml or a file it names was changed, and has it taken over.

In: the files' stamps, looked at twice a second through symbolic links (a ConfigMap changes by swapping one); SIGHUP.
Out: `gateway reload` run as a process of its own, for this one never holds a credential; a log line for what came of
it, whoever asked for it; a call when the runtime file was replaced. Run by the supervisor until the gateway ends.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from control import config_status
from control.command import gateway
from control.config_status import Attempt
from extproc import runtime
from extproc.paths import Paths
from extproc.process.beat import beat
from extproc.process.files import Stamp, stamp_of
from extproc.process.logs import Trouble
from extproc.settings import Settings

_log = logging.getLogger(__name__)

EVERY_S = 0.5
_AGAIN_S = 5.0  # a change that could not be taken over, for the disk is full


class Watch:
    """`on_change` gets the settings whenever new ones are in force."""

    def __init__(
        self, config: Path, paths: Paths, env: Mapping[str, str], on_change: Callable[[Settings], None]
    ) -> None:
        self._config = config
        self._paths = paths
        self._env = env
        self._on_change = on_change
        self._forced = asyncio.Event()
        self._files = (config, *_named_files(runtime.read(paths.runtime)))
        self._known = self._before = self._stamps()
        self._runtime = RuntimeFile(paths.runtime)
        self._status = stamp_of(paths.config_status)
        self._last = config_status.read(paths.config_status).last
        self._trouble = Trouble(
            _log, "configuration cannot be taken over; tried again", "configuration can be taken over", logging.ERROR
        )

    def force(self) -> None:
        """Reload at once, changed or not."""
        self._forced.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await beat(EVERY_S, self._forced)
            try:
                await self._look()
                self._trouble.over()
            except OSError as error:
                self._trouble.seen(error)
                self._known = {}
                await asyncio.sleep(_AGAIN_S)

    async def _look(self) -> None:
        now = self._stamps()
        # A file still being written is left to rest: twice the same, and not what is known.
        settled, self._before = now == self._before, now
        if self._forced.is_set() or (settled and now != self._known):
            self._forced.clear()
            self._known = now
            await self._reload()
        self._tell()
        if (settings := self._runtime.changed()) is not None:
            # A file that is new to us is looked at again: it may have changed since it was read.
            self._files = (self._config, *_named_files(settings))
            self._on_change(settings)

    async def _reload(self) -> None:
        arguments = gateway("reload", "--config", str(self._config), "--data-dir", str(self._paths.data_dir), "--quiet")
        process = await asyncio.create_subprocess_exec(
            *arguments,
            env=dict(self._env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, said = await process.communicate()
        finally:
            if process.returncode is None:  # the gateway ends
                process.kill()
        if process.returncode not in (0, 2):  # applied, refused: that it has written down
            last = said.decode(errors="replace").strip().rpartition("\n")[2]
            raise OSError(last.removeprefix("error: ") or f"exit code {process.returncode}")

    def _tell(self) -> None:
        if (stamp := stamp_of(self._paths.config_status)) == self._status:
            return
        try:
            status = config_status.read(self._paths.config_status)
        except (OSError, msgspec.DecodeError):
            return
        self._status = stamp
        if status.last == self._last:
            return
        self._last = status.last
        _log.log(*_line(status.last), extra={"file": status.file, "version": status.version, **_why(status.last)})

    def _stamps(self) -> dict[Path, Stamp]:
        return {file: stamp_of(file) for file in self._files}


class RuntimeFile:
    """The runtime file, and whether it was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = stamp_of(path)

    def changed(self) -> Settings | None:
        """The settings, if they are others than when last asked. Raises OSError."""
        if (stamp := stamp_of(self._path)) == self._known:
            return None
        self._known = stamp
        return runtime.read(self._path)

    async def follow(self, on_change: Callable[[Settings], None]) -> None:
        """Call `on_change` with what is new, until cancelled."""
        while True:
            await beat(EVERY_S)
            if (settings := self.changed()) is not None:
                on_change(settings)


def _line(attempt: Attempt) -> tuple[int, str]:
    if attempt.result == "refused":
        return logging.ERROR, "configuration refused; the one before stays in force"
    return logging.INFO, f"configuration {attempt.result}"


def _why(attempt: Attempt) -> dict[str, list[str]]:
    return {"problems": list(attempt.problems)} if attempt.problems else {}


def _named_files(settings: Settings) -> tuple[Path, ...]:
    """Credentials, certificates, public keys."""
    tls = settings.listen.tls
    files = [
        *(provider.credential_file for provider in settings.providers.values()),
        *(tls.files if tls else ()),
        *(file for issuer in settings.auth.jwt for file in (issuer.jwks_file, issuer.ca_file)),
    ]
    return tuple(file for file in files if file is not None)
