"""A worker: loads the runtime file, serves ext_proc on its socket, drains on SIGTERM.

In: the data directory and the worker's index. Out: nothing but replies to Envoy. Started by `gateway up`.
"""

import asyncio
import contextlib
import logging
import signal
import time
from pathlib import Path

import uvloop

from extproc import runtime
from extproc.budget.estimate import OutputEstimates
from extproc.budget.learnt import follow
from extproc.budget.outage import GuardedHolds, OutagePolicy
from extproc.budget.redis import RedisLedger
from extproc.budget.reserve import Reserver
from extproc.cache.setup import CacheParts
from extproc.clock import SystemClock
from extproc.exchange.answering import Options
from extproc.exchange.live import Live
from extproc.exchange.server import Chosen, services
from extproc.paths import Paths
from extproc.pipeline import Pipeline
from extproc.process import logs
from extproc.process.collector import tune_collector
from extproc.process.doorbell import Bell
from extproc.process.memory import keep_memory, use_large_pages
from extproc.routing.classify import trained
from extproc.routing.standing import View
from extproc.routing.watch import Watch
from extproc.settings import Settings
from extproc.snapshot.current import Current, Snapshot, compile_snapshot
from extproc.snapshot.refresh import Refresher
from extproc.state import State
from extproc.state.pipe import open_state
from extproc.tokens import Estimator
from extproc.transport import server as make_server

log = logging.getLogger(__name__)

LEASE_MARGIN_S = 30.0


def run(data_dir: Path, index: int) -> None:
    """Serve as worker `index` until SIGTERM."""
    logs.setup(f"worker {index}")
    paths = Paths.of(data_dir)
    uvloop.run(_serve(runtime.read(paths.runtime), paths, index))


async def _serve(settings: Settings, paths: Paths, index: int) -> None:
    client = open_state(paths.state_url(settings.state.url), timeout_s=settings.state.timeout)
    outputs = OutputEstimates()
    current = Current(compile_snapshot(settings))
    refresher = Refresher(current, client, paths)
    await refresher.start()
    view = View(settings.breaker)
    cache = CacheParts(settings, paths, lambda: current.snapshot.settings.cache)
    reserver = _reserver(settings, client, outputs)
    pipeline = Pipeline(current.snapshot.catalog, reserver, SystemClock(), view, cache.step())
    options = Chosen(_options(settings, index))
    current.on_swap.append(lambda snapshot: pipeline.use(snapshot.catalog))
    current.on_swap.append(lambda snapshot: view.use(snapshot.settings.breaker))
    current.on_swap.append(lambda snapshot: reserver.use(_lease_ms(snapshot.settings)))
    current.on_swap.append(lambda snapshot: options.use(_options(snapshot.settings, index)))
    if _may_ask_for_auto(current.snapshot):
        trained()  # now, not in somebody's request
    current.on_swap.append(_ready_for_auto)
    live = Live()
    served = services(pipeline, options, live)
    server, fallbacks = make_server(settings.transport, served), make_server(settings.transport, served)
    bell = Bell(paths.bell_socket(index))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tune_collector()
    keep_memory()
    use_large_pages()
    for each, socket in ((fallbacks, paths.fallback_socket(index)), (server, paths.worker_socket(index))):
        socket.unlink(missing_ok=True)
        await each.start(socket)  # the worker's own last: by it we are ready
    beside = [
        asyncio.create_task(work)
        for work in (
            follow(client, outputs),
            refresher.run(bell),
            Watch(paths.standings, view).run(bell),
            *cache.beside(),
            *cache.of_worker(),
        )
    ]
    log.info("serving")
    await stop.wait()
    ends_s = time.monotonic() + current.snapshot.settings.timeouts.drain
    await server.stop(ends_s - time.monotonic())
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(_passed(live, paths.admin_socket), ends_s - time.monotonic())
    await fallbacks.stop(0)  # not before: what is still open may need its next attempt, and only we know of it
    for task in beside:
        task.cancel()
    bell.close()
    await cache.close()
    await client.aclose()
    log.info("stopped")


async def _passed(live: Live, envoy: Path) -> None:
    """Returns when no answer that passes by Envoy alone can need us, or Envoy is gone. Nobody says it sooner."""
    with contextlib.suppress(OSError):
        while live.may_be_asked(SystemClock.mono_ns()):
            _, writer = await asyncio.open_unix_connection(envoy)
            writer.close()
            await asyncio.sleep(0.2)


def _may_ask_for_auto(snapshot: Snapshot) -> bool:
    return any(team.auto for team in snapshot.catalog.views.values())


def _ready_for_auto(snapshot: Snapshot) -> None:
    """Where a change brings `auto`, the model for it is loaded beside the requests: in one, it would hold up all for
    0.2 s, for numpy comes with it."""
    if _may_ask_for_auto(snapshot):
        asyncio.get_running_loop().run_in_executor(None, trained)


def _reserver(settings: Settings, client: State, outputs: OutputEstimates) -> Reserver:
    policy = OutagePolicy(settings.state.on_outage, shares=settings.workers)
    return Reserver(GuardedHolds(RedisLedger(client), policy), Estimator(), outputs, _lease_ms(settings))


def _lease_ms(settings: Settings) -> int:
    return round(1000 * (settings.budgets.hold_lease or settings.timeouts.request + LEASE_MARGIN_S))


def _options(settings: Settings, index: int) -> Options:
    return Options(
        worker=index,
        native_streams=settings.streams.same_format == "native",
        metadata_in_body=settings.response_metadata == "body",
    )
