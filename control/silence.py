"""A process that hangs: it lives, and yet it answers nothing any more (stopped, or its event loop is blocked).

In: how to ask it. Out: returns when it is to be replaced. Called by the supervisor for each life of a child that can be
asked. One that does not listen is starting (our sockets are bound last) or ending, and is left alone. By our own
transport the event loop itself answers; grpcio answers from a thread, so of its users only a stopped one is silent.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from extproc.process.beat import beat

SILENT_S: Final = 30.0  # Envoy's PING ends the connections of such a worker after 20 s
_ASKS: Final = 2  # so many in a row: the time that we were stopped ourselves must not count against others
_PAUSES: Final = 6

Ask = Callable[[float], Awaitable[bool]]  # whether it answers within so many seconds; raises OSError, TimeoutError


async def until_silent(ask: Ask, silent_s: float) -> None:
    """Return when what listens has answered nothing for `silent_s`."""
    missed = 0
    while missed < _ASKS:
        if await _answers(ask, silent_s / _ASKS):
            missed = 0
            await beat(silent_s / _PAUSES)
        else:
            missed += 1


async def _answers(ask: Ask, within_s: float) -> bool:
    """True too where nobody listens. False takes `within_s`, however soon it was clear: a full queue of connections
    refuses at once."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + within_s
    try:
        if await ask(within_s):
            return True
    except (FileNotFoundError, ConnectionRefusedError):
        return True
    except OSError:  # TimeoutError is one
        pass
    await asyncio.sleep(max(0.0, end_s - loop.time()))
    return False
