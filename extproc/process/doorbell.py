"""A bell between the processes of one gateway: who replaced a file rings, who reads it listens, so that nobody polls.

In: the directory of the gateway's sockets, where each listener has a datagram socket. Out: a wake-up. A ring says
nothing, and may get lost (a listener that is starting, a full queue): listeners also look now and then by themselves.
"""

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

from extproc.paths import Paths
from extproc.process.beat import beat

_ANY_NUMBER = 4096  # rings that are taken at once


class Bell:
    """A listener's end. Made and used on the event loop. Raises OSError if its socket cannot be bound."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        path.unlink(missing_ok=True)
        self._socket.bind(str(path))
        self._rung = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._socket, self._hear)

    async def wait(self, every_s: float) -> None:
        """Return when it was rung since the last time, or at the next beat."""
        await beat(every_s, self._rung)
        self._rung.clear()

    def close(self) -> None:
        """Hear nothing more."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _hear(self) -> None:
        with suppress(OSError):
            for _ in range(_ANY_NUMBER):
                self._socket.recv(1)
        self._rung.set()


def ring(paths: Paths) -> None:
    """Wake every listener there is. Never waits, never raises."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        for path in paths.bell_sockets():
            with suppress(OSError):  # nobody listens (any more), or it has rung often enough
                sender.sendto(b"\0", str(path))
