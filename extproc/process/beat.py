"""The beat: whatever a process does again and again it does at the same moments, so that it wakes once for all of it.

In: how often. Out: a wait until the next moment. Moments are the multiples of the period on the machine's monotonic
clock, so those of 0.5, of 1 and of 5 seconds meet; what is asked of the shared state then leaves in one write, and its
answers come in one read. `grep -r beat` finds all that is done by the clock.
"""

import asyncio
from contextlib import suppress

_LEAST = 0.1  # of a period: a timer may be a moment early, and what took nearly a period may rest for one


async def beat(period_s: float, sooner: asyncio.Event | None = None) -> None:
    """Return at the next moment, or once `sooner` is set."""
    wait_s = until(asyncio.get_running_loop().time(), period_s)
    if sooner is None:
        await asyncio.sleep(wait_s)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await sooner.wait()


def until(now_s: float, period_s: float) -> float:
    """From now to the next moment that is not too near, in seconds."""
    left_s = period_s - now_s % period_s
    return left_s if left_s >= _LEAST * period_s else left_s + period_s
