"""The cascade: which kept text asks the same as a new one. Each step sees only what the one before let pass.

In: a context and a text. Out: the best candidate with its cosine, or why there is none. Shortlist by static vectors
(`index`), vetoes (`guards`), and MiniLM over the few that survive (`confirm`). Whether its cosine is high enough is not
decided here. Called by `semantic`, and by `bench.cache` with steps left out.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, Protocol

import msgspec

from extproc.cache.facts import Facts, facts
from extproc.cache.guards import veto
from extproc.cache.index import Index, Near, Vector

SURVIVORS = 3  # looked at by the network
_FIRST_COSINE = 0.5  # of static vectors: what is farther away was never confirmed

Why = Literal["empty", "far", "vetoed", "long", "late"]
read_facts: Callable[[str], Facts] = lru_cache(maxsize=8192)(facts)


class Embedder(Protocol):
    """The static vectors."""

    def embed(self, text: str) -> Vector:
        """Of a text, length 1."""


class Judge(Protocol):
    """The network."""

    def fits(self, text: str) -> bool:
        """Whether it reads all of a text."""

    async def cosines(self, text: str, others: Sequence[str], deadline_s: float) -> list[float] | None:
        """See `confirm`."""


class Candidate(msgspec.Struct, frozen=True):
    """A kept text that may ask the same. `cosine`: MiniLM's."""

    digest: str
    text: str
    cosine: float


class Cascade:
    """Bound to a worker's index."""

    def __init__(self, embedder: Embedder, index: Index, judge: Judge) -> None:
        self.index = index
        self._embedder = embedder
        self._judge = judge

    def learn(self, context: str, digest: str, text: str, until_ms: int) -> None:
        """A text whose answer is kept. About 0.1 ms."""
        self.index.put(context, digest, text, self._embedder.embed(text), until_ms)

    async def best(self, context: str, text: str, now_ms: int, deadline_s: float) -> Candidate | Why:
        """The survivor that is nearest."""
        if context not in self.index:
            return "empty"
        near = [one for one in self.shortlist(context, text, now_ms) if one.cosine >= _FIRST_COSINE]
        if not near:
            return "far"
        survivors = allowed(text, near)[:SURVIVORS]
        if not survivors:
            return "vetoed"
        if not all(map(self._judge.fits, (text, *(one.text for one in survivors)))):
            return "long"
        cosines = await self._judge.cosines(text, [one.text for one in survivors], deadline_s)
        if cosines is None:
            return "late"
        cosine, one = max(zip(cosines, survivors, strict=True), key=lambda pair: pair[0])
        return Candidate(one.digest, one.text, cosine)

    def shortlist(self, context: str, text: str, now_ms: int) -> list[Near]:
        """The nearest by static vectors."""
        return self.index.nearest(context, self._embedder.embed(text), now_ms)


def allowed(text: str, near: Sequence[Near]) -> list[Near]:
    """Those that no guard objects to."""
    asked = read_facts(text)
    return [one for one in near if veto(asked, read_facts(one.text)) is None]
