"""`gateway up`: starts every process in order, says when it is ready, keeps them alive, drains and ends them.

In: a prepared data directory (see prepare.py). Out: the exit code. Runs without provider credentials.

Start: Valkey, then all others at once; Envoy waits for nobody and tolerates clusters that come up after it.
End: Envoy stops accepting; what is in flight goes on until `timeouts.drain`; then Envoy, the workers, control and the
simulator end, then the settler (so that the last access log entry is settled), then Valkey.
"""

import asyncio
import hashlib
import os
import signal
import sys
from functools import partial
from pathlib import Path

from control import processes
from control.children import Children, run
from control.drain import drain
from control.output import Stderr
from control.parent import watch_parent
from control.ready import probes
from control.stop import Stop
from control.watch import Watch
from extproc import runtime
from extproc.paths import Paths
from extproc.settings import Settings

DEMO_KEY = "sk-demo"


async def serve(
    paths: Paths, stderr: Stderr, *, config: Path, ready_timeout_s: float, silent_s: float, with_parent: bool
) -> int:
    """Run the gateway until it is told to stop. Returns the exit code: 0 after a stop, 1 if it never was ready."""
    settings = runtime.read(paths.runtime)
    stop = Stop()
    if with_parent:
        watch_parent(stop.first)
    children = Children(processes.everything(settings, paths, silent_s), stderr)
    watch = Watch(config, paths, os.environ, partial(adjust, children, paths))
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, watch.force)

    async def work() -> None:
        await children.start(paths, probes(settings, paths), ready_timeout_s)
        stderr.write(hints(settings, config).encode())
        sys.stdout.write(f"ready {base_url(settings)}\n")
        sys.stdout.flush()
        await watch.run()

    async def drained() -> None:
        limit_s = runtime.read(paths.runtime).timeouts.drain  # it may have been reloaded since
        await drain(paths.admin_socket, limit_s)

    return await run(children, stop, stderr, work(), drained)


def adjust(children: Children, paths: Paths, settings: Settings) -> None:
    """After a reload: the simulator, where it has become needed."""
    for simulator in processes.simulators(settings, paths):
        children.add(simulator)


def base_url(settings: Settings) -> str:
    """Where clients reach the gateway, without `/v1`: on a port, else on its unix socket."""
    listen = settings.listen
    if listen.port is None:
        return f"unix:{listen.unix_socket}"
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    return f"{'https' if listen.tls else 'http'}://{host}:{listen.port}"


def hints(settings: Settings, config: Path) -> str:
    """A few lines for whoever started it by hand."""
    simulated = [name for name, provider in settings.providers.items() if provider.is_demo]
    real = [name for name, provider in settings.providers.items() if not provider.is_demo]
    lines = [f"configuration  {config}"]
    if real:
        lines.append(f"providers      {', '.join(real)}")
    if simulated:
        lines.append(f"simulated      {', '.join(simulated)} (no credential: the built-in simulator answers)")
    digest = "sha256:" + hashlib.sha256(DEMO_KEY.encode()).hexdigest()
    key = DEMO_KEY if any(digest in team.keys for team in settings.teams) else "$KEY"
    where = base_url(settings)
    if where.startswith("unix:"):
        where = f"--unix-socket {where.removeprefix('unix:')} http://gateway"
    if not where.startswith("--unix-socket"):
        lines.append(f"dashboard      {where}/ui")
    lines.append(
        f"try            curl {where}/v1/chat/completions -H 'authorization: Bearer {key}'"
        " -H 'content-type: application/json'"
        f""" -d '{{"model": "{settings.models[0].name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'"""
    )
    return "\n".join(lines) + "\n"
