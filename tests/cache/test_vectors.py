"""Vectors beside the entries, on a real Valkey: what one worker made, no other makes, nor itself after a restart."""

import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from extproc.cache.cascade import Candidate, Cascade, Models
from extproc.cache.checks import Follower
from extproc.cache.confirm import Confirmer
from extproc.cache.counts import Counts
from extproc.cache.index import Index, Vector
from extproc.cache.key import Key
from extproc.cache.redis import RedisStore
from extproc.cache.semantic import Semantic
from extproc.cache.ticket import Ticket
from extproc.cache.vectors import Reader, Vectors, dump, load
from extproc.embedding.static import StaticEmbedder
from extproc.settings import Semantic as Settings
from extproc.state.pipe import open_state
from tests.budget.conftest import Valkey
from tests.cache.builders import entry, key, team_name
from tests.cache.tables import pairs

MARK, TTL_MS, MOST, SECOND = b"these   ", 3_600_000, 10**9, 10.0
TEXTS = list(dict.fromkeys(cached for _, cached, _ in pairs("paraphrases")))


class Session:
    """MiniLM, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def run(self, *inputs: Any) -> Any:
        self.asked += 1
        return Confirmer.load()._session.run(*inputs)


class Embedder:
    """The static vectors, and how often they were asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def embed(self, text: str) -> Vector:
        self.asked += 1
        return StaticEmbedder.load().embed(text)


class Worker:
    """The semantic step of one, from its start on."""

    def __init__(self, store: RedisStore, mark: bytes = MARK) -> None:
        self.session, self.embedder = Session(), Embedder()
        models = Models(self.embedder, Confirmer(self.session, Confirmer.load()._pieces), mark)
        configured = Settings(enabled=True)
        self.semantic = Semantic(lambda: configured, lambda: Cascade(Index(), models), Counts())
        self.reader = Reader(store, models)
        self.follower = Follower(self.semantic, store, lambda: models)

    async def follow(self) -> "Worker":
        """All news there are."""
        while await self.follower.catch_up(self.reader):
            pass
        return self

    async def read(self) -> None:
        """All that nobody has read."""
        while self.reader.unread:
            await self.reader.read()

    @property
    def made(self) -> tuple[int, int]:
        """How many static vectors, how many of the network's."""
        return self.embedder.asked, self.session.asked


@pytest.fixture
async def store(valkey: Valkey) -> AsyncIterator[RedisStore]:
    client = open_state(valkey.url, timeout_s=5)
    yield RedisStore(client, prefix=team_name())
    await client.aclose()


async def keep(store: RedisStore, text: str) -> Key:
    known, now_ms = key(text, team="a"), round(time.time() * 1000)
    await store.store(entry(known, stored_ms=now_ms), Ticket(known, "a", now_ms, ""), TTL_MS, MOST)
    return known


async def test_a_restart_makes_no_vector_anew(store: RedisStore) -> None:
    for text in TEXTS:
        await keep(store, text)
    first = await Worker(store).follow()
    await first.read()
    assert first.made == (2 * len(TEXTS), len(TEXTS)), "learnt at once, read when there was time"
    again = await Worker(store).follow()
    await again.read()
    assert again.made == (0, 0)
    assert len(again.semantic.cascade.index) == len(TEXTS)
    context = key(TEXTS[0], team="a").context
    for asked, text in enumerate(TEXTS, 1):
        found = await again.semantic.cascade.best(context, f"{text} Thanks!", 0, SECOND)
        assert isinstance(found, Candidate)
        assert found.text == text
        assert again.embedder.asked == asked, "the question's own"
        assert again.session.asked <= asked


async def test_what_another_worker_has_read_meanwhile_is_not_read_again(store: RedisStore) -> None:
    await keep(store, TEXTS[0])
    one, other = await Worker(store).follow(), await Worker(store).follow()
    await one.read()
    await other.read()
    assert (one.session.asked, other.session.asked) == (1, 0)


async def test_vectors_of_other_models_are_made_anew_and_replaced(store: RedisStore) -> None:
    known = await keep(store, TEXTS[0])
    await (await Worker(store, b"others  ").follow()).read()
    size = await store.size(known.partition, 0)
    newer = await Worker(store).follow()
    await newer.read()
    assert newer.session.asked == 1
    assert (await Worker(store).follow()).made == (0, 0)
    assert await store.size(known.partition, 0) == size


async def test_a_text_the_network_does_not_read_whole_is_not_learnt(store: RedisStore) -> None:
    await keep(store, "What is the capital of Portugal? " * 20)
    kept = await keep(store, TEXTS[0])
    worker = await Worker(store).follow()
    await worker.read()
    assert set(worker.semantic.cascade.index._used) == {kept.digest}
    assert worker.made == (2, 1)


async def test_vectors_count_and_go_with_their_entry(store: RedisStore) -> None:
    known = await keep(store, TEXTS[0])
    before = await store.size(known.partition, 0)
    data = dump(Vectors(np.ones(256, np.float32), np.ones(384, np.float32)), MARK)
    assert await store.vectors(known.partition, [known.digest, "none"]) == [b"", None]
    await store.add_vectors(known.partition, known.digest, data)
    await store.add_vectors(known.partition, "none", data)
    assert await store.vectors(known.partition, [known.digest, "none"]) == [data, None]
    assert await store.size(known.partition, 0) == (1, before[1] + len(data))
    await store.forget(known.partition, [known.digest])
    assert await store.vectors(known.partition, [known.digest]) == [None]
    assert await store.size(known.partition, 0) == (0, 0)


async def test_of_what_is_gone_nothing_is_learnt(store: RedisStore) -> None:
    gone, kept = await keep(store, TEXTS[0]), await keep(store, TEXTS[1])
    await store.forget(gone.partition, [gone.digest])
    worker = await Worker(store).follow()
    assert set(worker.semantic.cascade.index._used) == {kept.digest}


def test_a_cosine_is_hardly_off() -> None:
    judge, embedder = Confirmer.load(), StaticEmbedder.load()
    exact = np.array([judge.vector(text) for text in TEXTS])
    kept = [load(dump(Vectors(embedder.embed(text), judge.vector(text)), MARK), MARK) for text in TEXTS]
    read = np.array([vectors.sentence for vectors in kept if vectors is not None])
    assert np.abs(exact @ exact.T - exact @ read.T).max() < 0.0005


@pytest.mark.parametrize("data", [b"", b"nonsense" * 9, b"these"])
def test_what_is_no_vectors_of_these_models_is_none(data: bytes) -> None:
    assert load(data, MARK) is None
