"""The beat: periods that divide one another meet, and none comes twice."""

import asyncio

from hypothesis import example, given
from hypothesis import strategies as st

from extproc.process.beat import beat, until

PERIODS_S = (0.25, 0.5, 1.0, 2.0, 5.0)


@given(now_ms=st.integers(0, 10**10), period_s=st.sampled_from(PERIODS_S))
@example(now_ms=900, period_s=1.0)  # a tenth is left, but for what a float cannot say
def test_moments_are_the_multiples(now_ms: int, period_s: float) -> None:
    left_s = until(now_ms / 1000, period_s)
    assert 0.1 * period_s - 1e-9 <= left_s <= 1.1 * period_s + 1e-9
    off_s = (now_ms / 1000 + left_s) % period_s
    assert min(off_s, period_s - off_s) < 1e-5


@given(moment=st.integers(1, 10**9), early_s=st.floats(1e-9, 1e-3), period_s=st.sampled_from(PERIODS_S))
def test_a_timer_that_was_early_does_not_come_twice(moment: int, early_s: float, period_s: float) -> None:
    assert until(moment * period_s - early_s, period_s) >= period_s


async def test_it_comes_by_itself_and_sooner_when_asked_to() -> None:
    await beat(0.02)
    await beat(0.02, asyncio.Event())
    asked = asyncio.Event()
    waiting = asyncio.create_task(beat(1_000.0, asked))
    await asyncio.sleep(0)
    assert not waiting.done()
    asked.set()
    async with asyncio.timeout(30):
        await waiting
