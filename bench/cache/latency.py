"""How long a look-up takes with 10,000 entries in one context, by step. Run it alone on the machine.

In: requests, of which those seen for the first time are kept or asked: the support traffic without its exact hits.
Out: p50 and p99 in milliseconds, by the clock; for the whole look-up also by CPU time of all threads, which says what
it takes when nothing else wants the cores, and apart for the look-ups in which the network was asked. The facts and
vectors of what is cached were read when it was kept.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from itertools import islice

from bench.cache.cascade import CONTEXT, UNTIL_MS
from bench.cache.data import Prompt
from extproc.cache.cascade import Candidate, Cascade, Models, allowed, hopeful
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


async def measure(requests: Iterable[Prompt]) -> dict[str, tuple[float, float]]:
    """Of the first 10,000 different texts as entries and the next 1,000 as requests."""
    new = islice(dict.fromkeys(prompt.text for prompt in requests), ENTRIES + LOOK_UPS)
    kept, texts = (list(islice(new, count)) for count in (ENTRIES, LOOK_UPS))
    embedder, judge = StaticEmbedder.load(), Confirmer.load()
    cascade = Cascade(Index(), Models(embedder, judge))
    found: dict[str, tuple[float, float]] = {}
    found["one text learnt"] = _timed(lambda text: cascade.learn(CONTEXT, text, text, UNTIL_MS), kept)
    for text in kept:
        judge.vector(text)
    found["static vector"] = _timed(embedder.embed, texts)
    found["shortlist"] = _timed(lambda text: cascade.index.nearest(CONTEXT, embedder.embed(text), 0), texts)
    nearest = {text: cascade.index.nearest(CONTEXT, embedder.embed(text), 0) for text in texts}
    found["guards"] = _timed(lambda text: allowed(text, hopeful(text, nearest[text])), texts)
    times, cpu, asked = list[float](), list[float](), list[float]()
    for text in texts:
        began, cpu_began = time.perf_counter(), time.process_time()
        best = await cascade.best(CONTEXT, text, 0, 60.0)
        times.append((time.perf_counter() - began) * 1000)
        cpu.append((time.process_time() - cpu_began) * 1000)
        if isinstance(best, Candidate):
            asked.append(cpu[-1])
        await asyncio.sleep(0)
    found["whole look-up"] = quantiles(times)
    found["whole look-up, CPU"] = quantiles(cpu)
    found[f"  with the network ({len(asked) / LOOK_UPS:.0%}), CPU"] = quantiles(asked)
    return found
