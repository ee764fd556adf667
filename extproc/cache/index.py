"""The texts a worker knows answers to, and which of them lie nearest to a new one. Pure but for numpy and numkong.

In: texts with their static vectors, each in its context (`extproc.cache.key`: partition, system prompt, tools,
parameters, earlier turns). Out: the nearest of the same context; texts of two contexts never meet, they lie in separate
tables. Vectors are kept in 8-bit numbers, and all of them are looked at (ADR 16). Bounded: the least recently used text
leaves. Called by `extproc.cache.semantic`.
"""

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
from numkong import cdist
from numpy.typing import NDArray

DIMENSIONS = 256
SHORTLIST = 8
_FIRST_ROWS = 4
_BEST = 64  # at most; of these the texts whose time is over are left out, few as `expire` takes them away

Vector = NDArray[np.float32]


class Near(NamedTuple):
    """A text found, and how near it is: cosine of the static vectors, to about 0.01."""

    digest: str
    text: str
    cosine: float


class _Shard:
    """The texts of one context: parallel arrays, the last row moves into a gap."""

    def __init__(self) -> None:
        self.digests: list[str] = []
        self.texts: list[str] = []
        self.row: dict[str, int] = {}
        self._codes = np.empty((_FIRST_ROWS, DIMENSIONS), np.int8)
        self._scales = np.empty(_FIRST_ROWS, np.float32)
        self.until_ms = np.empty(_FIRST_ROWS, np.int64)

    def put(self, digest: str, text: str, vector: Vector, until_ms: int) -> None:
        row = self.row.get(digest)
        if row is None:
            row = self.row[digest] = len(self.digests)
            self.digests.append(digest)
            self.texts.append(text)
            self._reserve(row + 1)
        self._codes[row], self._scales[row] = _coded(vector)
        self.until_ms[row] = until_ms

    def _reserve(self, rows: int) -> None:
        have = len(self._scales)
        if rows > have:
            grown = 2 * have
            self._codes = np.resize(self._codes, (grown, DIMENSIONS))
            self._scales = np.resize(self._scales, grown)
            self.until_ms = np.resize(self.until_ms, grown)

    def drop(self, digest: str) -> None:
        row, last = self.row.pop(digest), len(self.digests) - 1
        if row != last:
            self.digests[row], self.texts[row] = self.digests[last], self.texts[last]
            self.row[self.digests[row]] = row
            for table in (self._codes, self._scales, self.until_ms):
                table[row] = table[last]
        self.digests.pop()
        self.texts.pop()

    def nearest(self, vector: Vector, now_ms: int, most: int) -> list[Near]:
        count = len(self.digests)
        code, scale = _coded(vector)
        products = np.asarray(cdist(self._codes[:count], code[np.newaxis], "dot", out_dtype="float32"))[:, 0]
        cosines = products * self._scales[:count]
        rows = np.argpartition(cosines, -_BEST)[-_BEST:] if count > _BEST else np.arange(count)
        rows = rows[self.until_ms[rows] > now_ms]
        rows = rows[np.argsort(-cosines[rows])][:most]
        return [
            Near(self.digests[row], self.texts[row], cosine * scale)
            for row, cosine in zip(rows.tolist(), cosines[rows].tolist(), strict=True)
        ]

    def expired(self, now_ms: int) -> list[str]:
        return [self.digests[row] for row in np.flatnonzero(self.until_ms[: len(self.digests)] <= now_ms).tolist()]


def _coded(vector: Vector) -> tuple[NDArray[np.int8], float]:
    """8-bit numbers, and what to multiply them by."""
    scale = max(float(np.abs(vector).max()), 1e-9) / 127
    return np.round(vector / scale).astype(np.int8), scale


class Index:
    """All texts of a worker. About 0.8 kB a text of 100 characters."""

    def __init__(self, most: int = 50_000) -> None:
        self._most = most
        self._shards: dict[str, _Shard] = {}
        self._used: OrderedDict[str, str] = OrderedDict()  # digest -> context, least recently used first

    def __len__(self) -> int:
        return len(self._used)

    def __contains__(self, context: str) -> bool:
        return context in self._shards

    def put(self, context: str, digest: str, text: str, vector: Vector, until_ms: int) -> None:
        """Know a text, or that it is kept longer. `digest` names its answer in the store."""
        self._shards.setdefault(context, _Shard()).put(digest, text, vector, until_ms)
        self._used[digest] = context
        self._used.move_to_end(digest)
        if len(self._used) > self._most:
            self.forget(next(iter(self._used)))

    def nearest(self, context: str, vector: Vector, now_ms: int, most: int = SHORTLIST) -> list[Near]:
        """The texts of `context` nearest to `vector`, nearest first, without those whose time is over."""
        shard = self._shards.get(context)
        return shard.nearest(vector, now_ms, most) if shard else []

    def use(self, digest: str) -> None:
        """A text was of use: it leaves later."""
        if digest in self._used:
            self._used.move_to_end(digest)

    def forget(self, digest: str) -> None:
        """Its answer is gone. Harmless twice."""
        context = self._used.pop(digest, None)
        if context is not None:
            shard = self._shards[context]
            shard.drop(digest)
            if not shard.digests:
                del self._shards[context]

    def expire(self, now_ms: int) -> int:
        """Forget what is past its time; returns how many."""
        gone = [digest for shard in self._shards.values() for digest in shard.expired(now_ms)]
        for digest in gone:
            self.forget(digest)
        return len(gone)
