"""A kept text's vectors, beside its entry in the store: made once, by whichever worker is first, and never anew.

In: keys of kept texts, from the store's news. Out: their vectors; those that nobody has made yet are made here, a few
at a time, and kept for all workers and for the next start. What is kept begins with a mark of the models that made it,
so that vectors of other models are none. It is halves of floats: a cosine is off by 0.0005 at most. Called by `checks`.
"""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

import numpy as np

from extproc.cache.cascade import Models
from extproc.cache.index import DIMENSIONS, Vector
from extproc.cache.key import Key
from extproc.cache.ports import VectorStore

_AT_ONCE: Final = 50  # texts: about 50 ms of the network's thread
_UNREAD: Final = 10_000  # texts that wait to be read; one that waits no more is read when it is a candidate, if ever


class Vectors(NamedTuple):
    """`static`: shape (256,). `sentence`: shape (384,)."""

    static: Vector
    sentence: Vector


def dump(vectors: Vectors, mark: bytes) -> bytes:
    """1,288 bytes."""
    return mark + np.concatenate(vectors).astype("<f2").tobytes()


def load(data: bytes, mark: bytes) -> Vectors | None:
    """What `dump` made with this very mark; None of anything else."""
    if not data or not data.startswith(mark):
        return None
    numbers = np.frombuffer(data, "<f2", offset=len(mark)).astype(np.float32)
    return Vectors(numbers[:DIMENSIONS], numbers[DIMENSIONS:])


class Reader:
    """Bound to a worker's store and models."""

    def __init__(self, store: VectorStore, models: Models) -> None:
        self._store = store
        self._models = models
        self._unread: deque[Key] = deque(maxlen=_UNREAD)

    @property
    def unread(self) -> int:
        """Texts that `read` is still to read."""
        return len(self._unread)

    async def known(self, keys: Sequence[Key]) -> dict[str, Vectors | None]:
        """By digest, of the texts that are still kept and that the network reads whole: others are never looked for.
        None: nobody has read it yet, `read` will."""
        fits = self._models.judge.fits
        found = await self._fetch([key for key in keys if key.text is not None and fits(key.text)])
        self._unread.extend(key for key in keys if key.digest in found and found[key.digest] is None)
        return found

    async def read(self) -> None:
        """Make some of the vectors that nobody has made yet."""
        some = list(islice(self._unread, _AT_ONCE))
        found = await self._fetch(some)
        for key in some:
            if key.text is not None and key.digest in found and found[key.digest] is None:
                vectors = await self._make(key.text)
                await self._store.add_vectors(key.partition, key.digest, dump(vectors, self._models.mark))
            self._unread.popleft()

    async def _make(self, text: str) -> Vectors:
        embedder, judge = self._models.embedder, self._models.judge
        return Vectors(embedder.embed(text), await judge.read(text))

    async def _fetch(self, keys: Sequence[Key]) -> dict[str, Vectors | None]:
        """What the store has; the network knows its own part of it from now on."""
        texts: dict[str, dict[str, str]] = {}
        for key in keys:
            if key.text is not None:
                texts.setdefault(key.partition, {})[key.digest] = key.text
        out: dict[str, Vectors | None] = {}
        read: dict[str, Vector] = {}
        for partition, by_digest in texts.items():
            kept = await self._store.vectors(partition, list(by_digest))
            for (digest, text), data in zip(by_digest.items(), kept, strict=True):
                if data is None:
                    continue
                vectors = out[digest] = load(data, self._models.mark)
                if vectors is not None:
                    read[text] = vectors.sentence
        self._models.judge.know(read)
        return out
