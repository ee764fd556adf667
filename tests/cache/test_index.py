"""The index against a plain search, under any sequence of calls."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from extproc.cache.index import DIMENSIONS, SHORTLIST, Index, Vector
from extproc.embedding.static import StaticEmbedder
from tests.cache.tables import pairs

MOST = 20
CONTEXTS = ("a", "b")
THREADS = Path("/proc/self/task")


def vector(seed: int) -> Vector:
    """A unit vector."""
    draw = np.random.default_rng(seed).standard_normal(DIMENSIONS)
    return (draw / np.linalg.norm(draw)).astype(np.float32)


def test_the_nearest_of_many_are_the_nearest() -> None:
    index = Index()
    vectors = np.array([vector(seed) for seed in range(2000)])
    for seed, row in enumerate(vectors):
        index.put("a", f"d{seed}", f"text {seed}", row, 10)
    hits = 0
    for seed in range(100):
        query = vectors[seed] + 0.5 * vector(10_000 + seed)
        query /= np.linalg.norm(query)
        found = index.nearest("a", query.astype(np.float32), 0, 5)
        assert found[0].digest == f"d{seed}"
        assert found[0].cosine == pytest.approx(float(vectors[seed] @ query), abs=0.01)
        hits += len({near.digest for near in found} & {f"d{at}" for at in np.argsort(-(vectors @ query))[:5]})
    assert hits >= 0.95 * 500


def test_contexts_do_not_meet() -> None:
    index = Index()
    index.put("a", "d", "text", vector(1), 10)
    assert index.nearest("b", vector(1), 0) == []


class Machine(RuleBasedStateMachine):
    """Against a dictionary in order of use."""

    def __init__(self) -> None:
        super().__init__()
        self.index = Index(MOST)
        self.model: dict[str, tuple[str, int]] = {}
        self.now = 0

    @rule(number=st.integers(0, 40), lasts=st.integers(1, 30))
    def put(self, number: int, lasts: int) -> None:
        context, digest = CONTEXTS[number % 2], f"d{number}"
        self.index.put(context, digest, f"text {number}", vector(number), self.now + lasts)
        self.model.pop(digest, None)
        self.model[digest] = (context, self.now + lasts)
        if len(self.model) > MOST:
            del self.model[next(iter(self.model))]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.model)))
        self.index.forget(digest)
        self.index.forget(digest)
        del self.model[digest]

    @rule(number=st.integers(0, 40))
    def use(self, number: int) -> None:
        self.index.use(f"d{number}")
        if f"d{number}" in self.model:
            self.model[f"d{number}"] = self.model.pop(f"d{number}")

    @rule(passed=st.integers(0, 20))
    def time_passes(self, passed: int) -> None:
        self.now += passed

    @rule()
    def expire(self) -> None:
        gone = [digest for digest, (_, until) in self.model.items() if until <= self.now]
        assert self.index.expire(self.now) == len(gone)
        for digest in gone:
            del self.model[digest]

    @invariant()
    def finds_what_is_there(self) -> None:
        assert len(self.index) == len(self.model)
        for context in CONTEXTS:
            found = {near.digest: near.text for near in self.index.nearest(context, vector(3), self.now, MOST)}
            live = {d for d, (where, until) in self.model.items() if where == context and until > self.now}
            assert found == {digest: f"text {digest[1:]}" for digest in live}


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=40)


def test_of_real_texts_the_nearest_are_found() -> None:
    """Among 3,000 texts, each the beginning of one prompt and the end of another."""
    rng, embed = random.Random(1), StaticEmbedder.load().embed
    prompts = [text.split() for _, *texts in pairs("near_misses") + pairs("paraphrases") for text in texts]
    mixed = [rng.choice(prompts)[:5] + rng.choice(prompts)[-5:] for _ in range(3_100)]
    kept, asked = ([" ".join(words) for words in some] for some in (mixed[:3_000], mixed[3_000:]))
    index, vectors = Index(), np.array([embed(text) for text in kept])
    for at, vector in enumerate(vectors):
        index.put("c", str(at), kept[at], vector, 1)
    for text in asked:
        cosines = vectors @ embed(text)
        found = index.nearest("c", embed(text), 0)
        exact = [float(cosines[int(one.digest)]) for one in found]
        assert [one.cosine for one in found] == pytest.approx(exact, abs=0.01)
        assert exact == pytest.approx(np.sort(cosines)[: -SHORTLIST - 1 : -1], abs=0.01)


def test_a_search_wakes_no_thread() -> None:
    index = Index()
    for at in range(1_000):
        index.put("c", str(at), "text", vector(at), 1)
    before = len(list(THREADS.iterdir()))
    index.nearest("c", vector(1), 0)
    assert len(list(THREADS.iterdir())) == before
