"""How long a look-up takes with 10,000 entries in one context, by step. Run it alone on the machine.

In: requests, of which those seen for the first time are kept or asked: the support traffic without its exact hits.
Out: p50 and p99 in milliseconds, by the clock; for the whole look-up also by CPU time of all threads, which says what
it takes when nothing else wants the cores, and apart for look-ups in which the network was asked and was not. The facts
and vectors of what is cached were read when it was kept.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

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


def split(requests: Iterable[Prompt]) -> tuple[list[str], list[str]]:
    """The first 10,000 different texts, which are kept, and the next 1,000, which are asked."""
    new = islice(dict.fromkeys(prompt.text for prompt in requests), ENTRIES + LOOK_UPS)
    return list(islice(new, ENTRIES)), list(new)


async def measure(kept: list[str], asked: list[str]) -> dict[str, tuple[float, float]]:
    """One look-up after the other, the network's vectors of what is kept known."""
    embedder, judge = StaticEmbedder.load(), Confirmer.load()
    cascade = Cascade(Index(), Models(embedder, judge))
    found: dict[str, tuple[float, float]] = {}
    found["one text learnt"] = _timed(lambda text: cascade.learn(CONTEXT, text, text, UNTIL_MS), kept)
    for text in kept:
        judge.vector(text)
    found["static vector"] = _timed(embedder.embed, asked)
    found["shortlist"] = _timed(lambda text: cascade.index.nearest(CONTEXT, embedder.embed(text), 0), asked)
    nearest = {text: cascade.index.nearest(CONTEXT, embedder.embed(text), 0) for text in asked}
    found["guards"] = _timed(lambda text: allowed(text, hopeful(text, nearest[text])), asked)
    taken = [await _look_up(cascade, text) for text in asked]
    with_network, without = [one for one in taken if one.network], [one for one in taken if not one.network]
    for name, some in (
        ("look-up", taken),
        (f"  {len(with_network) / len(taken):.0%} with the network", with_network),
        (f"  {len(without) / len(taken):.0%} without", without),
    ):
        found[name] = quantiles([one.clock_ms for one in some])
        found[f"{name}, CPU"] = quantiles([one.cpu_ms for one in some])
    return found


class _LookUp(NamedTuple):
    clock_ms: float
    cpu_ms: float
    network: bool  # it was asked


async def _look_up(cascade: Cascade, text: str) -> _LookUp:
    began, cpu_began = time.perf_counter(), time.process_time()
    best = await cascade.best(CONTEXT, text, 0, 60.0)
    clock_ms, cpu_ms = (time.perf_counter() - began) * 1000, (time.process_time() - cpu_began) * 1000
    await asyncio.sleep(0)
    return _LookUp(clock_ms, cpu_ms, isinstance(best, Candidate))
