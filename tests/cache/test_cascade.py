"""The whole cascade over the hand-made tables, and each step's say."""

import asyncio
from collections.abc import Sequence

import pytest

from extproc.cache.calibrate import START
from extproc.cache.cascade import Candidate, Cascade, Models, joined
from extproc.cache.confirm import Confirmer
from extproc.cache.index import Index, Near
from extproc.embedding.static import StaticEmbedder

from .tables import pairs

LONG_AGO, FOREVER, SECOND = 0, 2**60, 10.0


def cascade(*texts: str) -> Cascade:
    found = Cascade(Index(), Models(StaticEmbedder.load(), Confirmer.load()))
    for text in texts:
        found.learn("context", text, text, FOREVER)
    return found


async def hit(cached: str, new: str) -> bool:
    """Whether `new` would be given the answer to `cached` by a partition that nothing is known of yet."""
    found = await cascade(cached).best("context", new, LONG_AGO, SECOND)
    return isinstance(found, Candidate) and found.cosine >= START


async def test_no_near_miss_is_a_hit() -> None:
    rows = [row for _, cached, new in pairs("near_misses") for row in ((cached, new), (new, cached))]
    assert [row for row in rows if await hit(*row)] == []


async def test_no_near_miss_is_a_hit_among_all_of_them() -> None:
    """With every cached prompt of both tables to choose from."""
    tables = pairs("near_misses") + pairs("paraphrases")
    everything = cascade(*(cached for _, cached, _ in tables))
    for _, _, new in pairs("near_misses"):
        found = await everything.best("context", new, LONG_AGO, SECOND)
        assert not isinstance(found, Candidate) or found.cosine < START, (new, found)


async def test_paraphrases_are_hits_at_the_stated_rate(capsys: pytest.CaptureFixture[str]) -> None:
    rows = pairs("paraphrases")
    hits = [await hit(cached, new) for _, cached, new in rows]
    by_kind = {kind: (sum(h for (k, _, _), h in zip(rows, hits, strict=True) if k == kind)) for kind, _, _ in rows}
    with capsys.disabled():
        print(f"\nparaphrases: {sum(hits)} of {len(rows)} hit at a cosine of {START}; {by_kind}")
    assert sum(hits) >= 50


async def test_each_step_says_why_there_is_nothing() -> None:
    some = cascade("What is the capital of Portugal?")
    long = "What is the capital of Portugal? " + "Tell me all about it. " * 20
    assert await some.best("elsewhere", "anything", LONG_AGO, SECOND) == "empty"
    assert await some.best("context", "How do I bake bread?", LONG_AGO, SECOND) == "far"
    assert await some.best("context", "Which city governs Portugal?", LONG_AGO, SECOND) == "far"
    assert await some.best("context", "What is the capital of Spain?", LONG_AGO, SECOND) == "vetoed"
    assert await some.best("context", long, LONG_AGO, SECOND) == "long"
    assert await cascade(long).best("context", "What is the capital of Portugal?", LONG_AGO, SECOND) == "empty"
    assert await Cascade(Index()).best("context", "anything", LONG_AGO, SECOND) == "empty"


async def test_what_is_past_its_time_is_no_candidate() -> None:
    some = cascade()
    some.learn("context", "d", "What is the capital of Portugal?", 1000)
    assert isinstance(await some.best("context", "what's the capital of Portugal", 999, SECOND), Candidate)
    assert await some.best("context", "what's the capital of Portugal", 1000, SECOND) == "far"


async def test_a_slow_network_is_a_miss_and_is_quick_the_next_time() -> None:
    judge = Confirmer(Slow(Confirmer.load()), Confirmer.load()._pieces)
    some = Cascade(Index(), Models(StaticEmbedder.load(), judge))
    some.learn("context", "d", "What is the capital of Portugal?", FOREVER)
    assert await some.best("context", "what's the capital of Portugal", LONG_AGO, 0.001) == "late"
    found = await some.best("context", "what's the capital of Portugal", LONG_AGO, SECOND)
    assert isinstance(found, Candidate)
    judge.close()


async def test_too_many_at_once_are_misses() -> None:
    judge = Confirmer(Slow(Confirmer.load()), Confirmer.load()._pieces)
    found = await asyncio.gather(*(judge.cosines(f"text {at}", ["other"], SECOND) for at in range(8)))
    assert sum(one is None for one in found) == 4
    judge.close()


class Slow:
    """A session that takes its time."""

    def __init__(self, real: Confirmer) -> None:
        self._real = real

    def run(self, names: None, inputs: dict[str, Sequence[int]]) -> object:
        import time

        time.sleep(0.05)
        return self._real._session.run(names, inputs)


def test_the_network_has_most_of_the_say() -> None:
    same_words, none = Near("d", "text", 1.0), Near("d", "text", 0.0)
    assert joined(1.0, same_words) == pytest.approx(1)
    assert joined(0.0, none) == 0
    assert joined(1.0, none) > 3 * joined(0.0, same_words) > 0
