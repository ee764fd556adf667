"""How long a look-up takes with 10,000 entries in one context, by step. Run it alone on the machine.

In: texts. Out: p50 and p99 in milliseconds, by the clock; for the whole look-up also by CPU time of all threads, which
says what it takes when nothing else wants the cores. Texts that are asked were never seen before, as in a cache that is
warm: the facts and vectors of what is cached were read when it was kept.
"""

import asyncio
import time
from collections.abc import Callable

from bench.cache.cascade import CONTEXT, UNTIL_MS
from bench.cache.data import Prompt
from extproc.cache.cascade import Cascade, Models, allowed
from extproc.cache.confirm import Confirmer
from extproc.cache.index import Index
from extproc.embedding.static import StaticEmbedder

ENTRIES = 10_000
LOOK_UPS = 1_000


def quantiles(times_ms: list[float]) -> tuple[float, float]:
    """p50 and p99."""
    ordered = sorted(times_ms)
    return ordered[len(ordered) // 2], ordered[int(0.99 * len(ordered))]


def _timed(work: Callable[[str], object], texts: list[str]) -> tuple[float, float]:
    times = []
    for text in texts:
        began = time.perf_counter()
        work(text)
        times.append((time.perf_counter() - began) * 1000)
    return quantiles(times)


async def measure(prompts: list[Prompt]) -> dict[str, tuple[float, float]]:
    """Of the first 10,000 prompts as entries and the next 1,000 as requests."""
    embedder, judge = StaticEmbedder.load(), Confirmer.load()
    cascade = Cascade(Index(), Models(embedder, judge))
    for prompt in prompts[:ENTRIES]:
        cascade.learn(CONTEXT, prompt.text, prompt.text, UNTIL_MS)
        judge.vector(prompt.text)
    texts = [prompt.text for prompt in prompts[ENTRIES : ENTRIES + LOOK_UPS]]
    found: dict[str, tuple[float, float]] = {}
    found["static vector"] = _timed(embedder.embed, texts)
    found["shortlist"] = _timed(lambda text: cascade.index.nearest(CONTEXT, embedder.embed(text), 0), texts)
    nearest = {text: cascade.index.nearest(CONTEXT, embedder.embed(text), 0) for text in texts}
    found["guards"] = _timed(lambda text: allowed(text, nearest[text]), texts)
    times, cpu = list[float](), list[float]()
    for text in texts:
        began, cpu_began = time.perf_counter(), time.process_time()
        await cascade.best(CONTEXT, text, 0, 60.0)
        times.append((time.perf_counter() - began) * 1000)
        cpu.append((time.process_time() - cpu_began) * 1000)
        await asyncio.sleep(0)
    found["whole look-up"] = quantiles(times)
    found["whole look-up, CPU"] = quantiles(cpu)
    return found
