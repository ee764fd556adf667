"""A gateway in a pod: Envoy, the workers with the settler, and control are containers, and so is what keeps the
configuration. They share `data_dir`, with `run` (sockets) and `envoy` (what is rendered) as volumes of their own.

`gateway watch` renders before the others start, then takes over changes; only it and Envoy have `envoy`, where the
provider credentials are. `gateway extproc` keeps the workers and the settler. Control and Envoy are one process each.

In: gateway.yaml; a prepared data directory. Out: exit codes. `docs/adr/0018` says why a pod is laid out so.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from control import processes
from control.children import Children, run
from control.drain import drain
from control.environment import without_credentials
from control.output import Stderr
from control.prepare import Prepared, as_started, lock, write_all
from control.ready import extproc_probes
from control.stop import Stop
from control.up import adjust
from control.watch import RuntimeFile, Watch
from extproc import runtime
from extproc.paths import Paths
from extproc.process.beat import beat
from extproc.settings import data_dir_of, load

_log = logging.getLogger(__name__)

_POLL_S = 0.5


def prepare(config: Path, env: Mapping[str, str]) -> tuple[Prepared, bool]:
    """What `gateway watch` needs, and whether the pod had it already: then this is the container's second start, the
    others are serving, and a change is a reload. Raises SettingsError, StartError, OSError."""
    paths = Paths.of(data_dir_of(config, env))
    if not paths.prepared.exists():
        return write_all(config, None, as_started(load(config, env), None), env), False
    descriptor = lock(paths.data_dir)
    return Prepared(paths, descriptor, without_credentials(env, runtime.read(paths.runtime))), True


async def watch(config: Path, paths: Paths, *, again: bool) -> int:
    """Take over changes of `config`, and drain Envoy when its container is told to stop."""
    stop = Stop()
    watching = Watch(config, paths, os.environ, lambda _: None)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, watching.force)
    if again:
        watching.force()
    paths.prepared.touch()
    await stop.or_first(_both(watching, paths))
    return 0


async def _both(watching: Watch, paths: Paths) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(watching.run())
        group.create_task(_drain_when_asked(paths))


async def _drain_when_asked(paths: Paths) -> None:
    """Envoy's container asks by a file (its preStop) and waits until it is gone: it has no client of its own for the
    admin socket. The file says for how many seconds new connections are still taken, since not everybody knows at once
    that the pod is going."""
    while True:
        with suppress(FileNotFoundError):
            accept_s = float(paths.drain_request.read_text() or 0)
            _log.info("draining", extra={"accepting_for_s": accept_s})
            await drain(paths.admin_socket, runtime.read(paths.runtime).timeouts.drain, accept_s)
            paths.drain_request.unlink()
            _log.info("drained")
        await beat(_POLL_S)


async def extproc(paths: Paths, stderr: Stderr, *, ready_timeout_s: float, silent_s: float) -> int:
    """Keep the workers and the settler, and what stands in for other machines, until told to stop. Envoy ends first:
    nothing is in flight then."""
    settings = runtime.read(paths.runtime)
    stop = Stop()
    children = Children(processes.extproc(settings, paths, silent_s), stderr)
    changes = RuntimeFile(paths.runtime)

    async def work() -> None:
        await children.start(paths, extproc_probes(settings, paths), ready_timeout_s)
        sys.stdout.write("ready extproc\n")
        sys.stdout.flush()
        await changes.follow(partial(adjust, children, paths))

    return await run(children, stop, stderr, work(), _nothing)


async def _nothing() -> None:
    return None
