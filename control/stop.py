"""How a supervisor is told to stop: SIGTERM and SIGINT, once for an orderly end, twice for an immediate one.

In: signals. Out: work awaited until one of them comes. Used by every command that keeps children.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable

_SECOND_SIGNAL_AFTER_S = 1.0


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
