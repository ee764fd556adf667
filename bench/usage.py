"""CPU and memory of processes over a while, and what others did to the machine meanwhile.

In: processes by role. Out: a `Usage` per role, and cores used by everyone else. Called by `bench.runs`.
"""

import contextlib
import time
from collections.abc import Iterable, Mapping

import msgspec
import psutil

_QUIET_CPU_S = 0.01  # the resolution of a process's CPU time
_QUIET_POLL_S = 0.25


class Usage(msgspec.Struct, frozen=True):
    """Of one process. `rss_bytes` at the end."""

    cpu_s: float
    rss_bytes: int


class Snapshot(msgspec.Struct, frozen=True):
    """One moment."""

    at_s: float
    cpu_s: dict[str, float]
    machine_s: float  # CPU time of everything on the machine


def snapshot(processes: Mapping[str, psutil.Process]) -> Snapshot:
    """Now. A process that has ended is left out."""
    cpu_s = {}
    for role, process in processes.items():
        with contextlib.suppress(psutil.Error):
            cpu_s[role] = _cpu_s(process)
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # already within user and nice
    return Snapshot(time.monotonic(), cpu_s, sum(times) - idle - guest)


def since(before: Snapshot, processes: Mapping[str, psutil.Process]) -> dict[str, Usage]:
    """What each process used since `before`; one that was replaced or has ended is left out."""
    now = snapshot(processes)
    return {
        role: Usage(now.cpu_s[role] - cpu_s, processes[role].memory_info().rss)
        for role, cpu_s in before.cpu_s.items()
        if role in now.cpu_s
    }


def others_cores(before: Snapshot, after: Snapshot, own_cpu_s: float) -> float:
    """Cores that processes which are not ours kept busy between two moments, the kernel's own work included."""
    busy_s = after.machine_s - before.machine_s - own_cpu_s
    return max(0.0, busy_s / max(1e-9, after.at_s - before.at_s))


def wait_until_quiet(processes: Iterable[psutil.Process], limit_s: float) -> None:
    """Return when together they hardly use CPU any more: what follows an answer has been done, and can be counted."""
    looked_at = list(processes)
    deadline = time.monotonic() + limit_s
    before = None
    while time.monotonic() < deadline:
        now = 0.0
        for process in looked_at:
            with contextlib.suppress(psutil.Error):
                now += _cpu_s(process)
        if before is not None and now - before <= _QUIET_CPU_S * 1.5:
            return
        before = now
        time.sleep(_QUIET_POLL_S)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
