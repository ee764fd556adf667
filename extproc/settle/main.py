"""The settler process: serves the access log service until SIGTERM, then writes what it has and ends.

In: the data directory. Out: the journal. Started by `gateway up`, one per Envoy.
"""

import asyncio
import gc
import logging
import signal
import sys
from functools import partial
from pathlib import Path

import uvloop

from extproc import logs, runtime
from extproc.paths import Paths
from extproc.settings import Settings
from extproc.settle.als import AccessLogServer
from extproc.settle.estimate import OutputFromBytes
from extproc.settle.intake import Intake
from extproc.settle.journal import NOT_NOW, connect, latest
from extproc.settle.writer import Writer

log = logging.getLogger(__name__)

_LEARN_FROM_ROWS = 10_000
_LAST_ENTRIES_S = 0.5
_FLUSH_S = 5.0


def run(data_dir: Path) -> None:
    """Serve until SIGTERM or SIGINT. Exits 1 if rows could not be written at the end."""
    logs.setup("settler")
    paths = Paths.of(data_dir)
    lost = uvloop.run(_serve(runtime.read(paths.runtime), paths))
    if lost:
        log.error("rows lost: the journal could not be written", extra={"rows": lost})
        sys.exit(1)


async def _serve(settings: Settings, paths: Paths) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    writer = Writer(partial(connect, paths.journal), settings.retention)
    server = AccessLogServer(Intake(writer, _learnt(paths.journal)))
    socket = paths.settler_socket
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket.unlink(missing_ok=True)
    writer.start()
    await server.start(socket)
    gc.collect()
    gc.freeze()  # what was loaded stays; collections look only at what entries make
    log.info("serving")
    await stop.wait()
    await server.stop(_LAST_ENTRIES_S)
    lost = await asyncio.to_thread(writer.close, _FLUSH_S)
    log.info("stopped")
    return lost


def _learnt(journal: Path) -> OutputFromBytes:
    """Sizes of answers, from the rows of earlier runs. A journal that cannot be read now is the writer's to report."""
    sizes = OutputFromBytes()
    try:
        connection = connect(journal)
        try:
            for row in latest(connection, _LEARN_FROM_ROWS):
                sizes.learn(row)
        finally:
            connection.close()
    except (*NOT_NOW, ValueError) as error:
        log.warning("sizes of answers are learnt anew", extra={"reason": str(error)})
    return sizes
