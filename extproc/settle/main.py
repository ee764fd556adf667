"""The settler process: serves the access log service until SIGTERM, then writes what it has and ends.

In: the data directory. Out: the journal, and the ledger charged from it. Started by `gateway up`, one per Envoy.
"""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import uvloop

from extproc import runtime
from extproc.audit.shipper import Shipper, retention_of
from extproc.budget.estimate import OutputEstimates
from extproc.budget.learnt import publish
from extproc.budget.ledger import LedgerUnavailable
from extproc.budget.redis import RedisLedger
from extproc.cache.setup import CacheParts
from extproc.paths import Paths
from extproc.process import logs
from extproc.process.collector import tune_collector
from extproc.process.memory import use_large_pages
from extproc.routing.health import LATELY_S
from extproc.settings import Settings, Telemetry
from extproc.settle.alerts import OPERATOR, Alerts, Receiver, tell_of_refusal
from extproc.settle.als import services
from extproc.settle.charge import Charger
from extproc.settle.estimate import OutputFromBytes
from extproc.settle.expiry import Expiry
from extproc.settle.follow import Follower
from extproc.settle.health import Keeper
from extproc.settle.intake import Intake, learn
from extproc.settle.journal import NOT_NOW, attempts_since, connect, latest
from extproc.settle.orphans import Orphans
from extproc.settle.outbox import Outbox
from extproc.settle.recent import Recent
from extproc.settle.rows import AttemptRow
from extproc.settle.writer import Writer
from extproc.snapshot.current import Current, compile_snapshot
from extproc.snapshot.refresh import Refresher
from extproc.state.pipe import open_state
from extproc.telemetry.tracing import Sender, Tracing
from extproc.transport import server as make_server

log = logging.getLogger(__name__)

_LEARN_FROM_ROWS = 10_000
_LAST_ENTRIES_S = 0.5
_FLUSH_S = 5.0


def run(data_dir: Path) -> None:
    """Serve until SIGTERM or SIGINT. Exits 1 if rows could not be written at the end, or when a part of it fails."""
    logs.setup("settler")
    paths = Paths.of(data_dir)
    if not uvloop.run(_serve(runtime.read(paths.runtime), paths)):
        sys.exit(1)


async def _serve(settings: Settings, paths: Paths) -> bool:
    """Whether it went well."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    writer = Writer(
        *(partial(connect, paths.journal), retention_of(settings)),
        owed=lambda charges: loop.call_soon_threadsafe(charger.take, charges),
    )
    sizes, outputs = _learnt(paths.journal)
    recent = Recent()
    current = Current(compile_snapshot(settings))
    cache = CacheParts(settings, paths, lambda: current.snapshot.settings.cache)
    client = open_state(paths.state_url(settings.state.url), timeout_s=settings.state.timeout)
    keeper = Keeper(settings, paths, client, uuid4().hex, partial(tell_of_refusal, Outbox(paths.journal)))
    keeper.start(_earlier_attempts(paths.journal))
    current.on_swap.append(lambda snapshot: keeper.use(snapshot.settings))
    ledger = RedisLedger(client)
    charger = Charger(Outbox(paths.journal), ledger, current.team, writer.mark)
    orphans = Orphans(
        ledger, lambda: current.snapshot.teams, lambda team_id, request: cache.left(current.team(team_id), request)
    )
    intake = Intake(
        *(writer, sizes, outputs, recent), attempted=keeper.take, recorder=cache.recorder, orphaned=orphans.add
    )
    server = make_server(settings.transport, services(intake))
    socket = paths.settler_socket
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket.unlink(missing_ok=True)
    writer.start()
    await server.start(socket)
    tune_collector()
    use_large_pages()
    refresher = Refresher(current, client, paths, keep=True)
    await refresher.start()
    tracing = Tracing(partial(connect, paths.journal), _span_sender, lambda: current.snapshot.settings)
    tracing.start()
    shipper = Shipper(partial(connect, paths.journal), lambda: current.snapshot.settings)
    shipper.start()
    current.on_swap += [
        lambda snapshot: writer.keep(retention_of(snapshot.settings)),
        lambda _: tracing.look(),
        lambda _: shipper.look(),
    ]
    follower = Follower(
        *(paths.request_log, paths.admin_socket, recent, Outbox(paths.journal).known, intake.take),
        unwritten=lambda: writer.waiting,
    )
    works = (
        charger.run(),
        follower.run(),
        Expiry(Outbox(paths.journal), ledger, lambda: current.snapshot.teams, follower.caught_up, recent).run(),
        Alerts(Outbox(paths.journal), partial(_receiver, current)).run(),
        publish(client, outputs),
        orphans.run(intake.take),
        refresher.run(),
        intake.verdicts.run(),
        keeper.run(),
        *cache.beside(),
    )
    tasks = [asyncio.create_task(_or_end(work, stop)) for work in works]
    log.info("serving")
    await stop.wait()
    await server.stop(_LAST_ENTRIES_S)
    intake.verdicts.close()
    lost = await asyncio.to_thread(writer.close, _FLUSH_S)
    for task in tasks:
        task.cancel()
    failed = [end for end in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(end, Exception)]
    if not failed:
        await _charge_the_rest(charger)
    await asyncio.to_thread(tracing.close, _FLUSH_S)
    await asyncio.to_thread(shipper.close, _FLUSH_S)
    await cache.close()
    await client.aclose()
    if lost:
        log.error("rows lost: the journal could not be written", extra={"rows": lost})
    log.info("stopped")
    return not lost and not failed


async def _or_end(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    """A part that fails ends the others, so that all are started anew: nobody would miss it for long."""
    try:
        await work
    except Exception:
        log.exception("a part of the settler failed")
        stop.set()
        raise


def _span_sender(telemetry: Telemetry) -> Sender:
    from extproc.telemetry.otlp import SpanSender  # noqa: PLC0415 - the SDK, only where there is a collector

    return SpanSender(telemetry)


def _receiver(current: Current, team_id: str) -> Receiver | None:
    """Who is told of a team's alert, or of an operator's; None: it is no longer configured."""
    if team_id == OPERATOR:
        return Receiver(current.snapshot.settings.alerts.webhook, current.snapshot.settings.alerts.secret)
    team = current.team(team_id)
    return None if team is None else Receiver(team.alert.webhook, team.alert.secret)


def _earlier_attempts(journal: Path) -> list[AttemptRow]:
    """What the figures of providers' health begin with."""
    try:
        connection = connect(journal)
        try:
            return attempts_since(connection, time.time() - LATELY_S)
        finally:
            connection.close()
    except (*NOT_NOW, ValueError) as error:
        log.warning("providers' health begins anew", extra={"reason": str(error)})
        return []


async def _charge_the_rest(charger: Charger) -> None:
    """What came in last; what cannot be charged now waits in the journal for the next start."""
    with suppress(LedgerUnavailable, TimeoutError, *NOT_NOW):
        async with asyncio.timeout(_FLUSH_S):
            await charger.rest()


def _learnt(journal: Path) -> tuple[OutputFromBytes, OutputEstimates]:
    """Sizes and lengths of answers, from earlier rows. A journal that cannot be read now is the writer's to report."""
    sizes, outputs = OutputFromBytes(), OutputEstimates()
    try:
        connection = connect(journal)
        try:
            for row in latest(connection, _LEARN_FROM_ROWS):
                learn(row, sizes, outputs)
        finally:
            connection.close()
    except (*NOT_NOW, ValueError) as error:
        log.warning("sizes of answers are learnt anew", extra={"reason": str(error)})
    return sizes, outputs
