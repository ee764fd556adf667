"""Ending together with the `make` that started us.

GNU make passes SIGTERM on to its children, but not SIGINT: sent to make alone, it only stops catching the signal and
waits for us, for ever. And a killed make tells nobody. So, only under `make run` (`gateway up --with-parent`), we look.
"""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from extproc.process.beat import until

_POLL_S = 0.5
_PR_SET_PDEATHSIG = 1


def watch_parent(stop: Callable[[], None]) -> None:
    """Call `stop` when the parent was interrupted or has ended. Does nothing where there is no /proc."""
    parent = os.getppid()
    if not sys.platform.startswith("linux") or not _catches_interrupt(parent):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    loop = asyncio.get_running_loop()

    def look() -> None:
        if os.getppid() != parent or not _catches_interrupt(parent):
            stop()
        else:
            loop.call_later(until(loop.time(), _POLL_S), look)

    look()


def _catches_interrupt(process: int) -> bool:
    """Whether `process` has a handler for SIGINT (proc(5): SigCgt is a hexadecimal mask)."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
    mask = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(mask, 16) >> (signal.SIGINT - 1) & 1)
