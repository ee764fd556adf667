"""The embedded state: a real Valkey as a child process, on a unix socket only.

In: the data directory's layout; the lines it prints. Out: the process that the supervisor starts when `state.url` is
`embedded`; its lines in the form of every other process's.
"""

import re
import time
from functools import partial
from pathlib import Path

from control import binaries
from control.hello import exchange
from control.supervise import Process
from extproc.paths import Paths
from extproc.process.logs import line

# `22697:M 24 Nov 2026 13:59:19.579 # Server initialized`: process, role, date, level, text. Of a signal's handler:
# `22697:signal-handler (1795997560) Received SIGTERM scheduling shutdown...`.
_LINE = re.compile(rb"\d+:(?:[A-Z] \d+ \w+ \d+ [\d:.]+ ([.*#-])|signal-handler \(\d+\)) (.*)")
_LEVEL = {b"#": "warning"}
# What it calls a warning at every end.
_USUAL = re.compile(rb"Valkey is now ready to exit|User requested shutdown")
# What it advises at every start. It forks here only to shorten its file; if that fails once, it says so itself.
_ADVICE = re.compile(rb"WARNING Memory overcommit must be enabled")


def embedded(paths: Paths) -> Process:
    """Valkey with its data under `data_dir`/state; every write is on disk within a second."""
    directory = paths.data_dir / "state"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = {
        "port": "0",
        "unixsocket": str(paths.valkey_socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "hz": "2",  # ticks a second; it is woken by commands anyway, and expires keys as it serves them
        "save": "",  # the append-only file is enough; snapshots would only fork
        "loglevel": "warning",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    return Process(
        name="valkey",
        argv=(str(binaries.valkey()), *arguments),
        grace_s=10.0,
        farewell=partial(shut_down, paths.valkey_socket),
        rewrite=as_json,
    )


async def shut_down(socket: Path) -> bool:
    """Have it write what it has and end; a signal it would hear at its next tick. Whether it does. Raises OSError."""
    return await exchange(socket, b"SHUTDOWN\r\n", 1) == b""  # an answer is a refusal


def as_json(text: bytes) -> bytes | None:
    """One line of Valkey's, without its end -> a line of JSON; `at` is now. None: nobody need read it."""
    match = _LINE.fullmatch(text)
    level, event = (_LEVEL.get(match[1], "info"), match[2]) if match else ("info", text)
    if _ADVICE.match(event):
        return None
    if _USUAL.match(event):
        level = "info"
    return line(time.time(), level, "valkey", event.decode(errors="replace")).encode()
