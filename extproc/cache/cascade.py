"""The cascade: which kept text asks the same as a new one. Each step sees only what the one before let pass.

In: a context and a text. Out: the best candidate with its cosine, or why there is none. Shortlist by static vectors
(`index`), those that may be near at all (`hopeful`), vetoes (`guards`), and the network over the few that survive
(`confirm`). Whether its cosine is high enough is not decided here. Called by `semantic`, and by `bench.cache` with
steps left out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Literal, NamedTuple, Protocol

import msgspec

from extproc.cache.facts import Facts, facts
from extproc.cache.guards import veto
from extproc.cache.index import Index, Near, Vector

SURVIVORS = 3  # looked at by the network
# What the network would not find near, it is not asked about: static cosine + _WORDS · shared words below _HOPE. Fitted
# on the parts of two sets that are for choosing, to keep 98 of 100 texts it finds at 0.80 or nearer (ADR 16).
_WORDS = 0.40
_HOPE = 0.83
_SAY = 0.8  # of the network in what decides; the rest is the static cosine's (ADR 16)

Why = Literal["empty", "far", "vetoed", "long", "late"]
# 2 kB each. Those of a partition of 10,000 texts stay, so that no look-up has to read its candidates first.
read_facts: Callable[[str], Facts] = lru_cache(maxsize=12_288)(facts)


class Embedder(Protocol):
    """The static vectors."""

    def embed(self, text: str) -> Vector:
        """Of a text, length 1."""


class Judge(Protocol):
    """The network."""

    def fits(self, text: str) -> bool:
        """Whether it reads all of a text."""

    async def read(self, text: str) -> Vector:
        """See `confirm`."""

    def know(self, vectors: Mapping[str, Vector]) -> None:
        """See `confirm`."""

    async def cosines(self, text: str, others: Sequence[str], deadline_s: float) -> list[float] | None:
        """See `confirm`."""


class Candidate(msgspec.Struct, frozen=True):
    """A kept text that may ask the same. `cosine`: of the network and of the static vectors, see `joined`."""

    digest: str
    text: str
    cosine: float


class Models(NamedTuple):
    """What reads texts. `mark`: of the files they are made of, 8 bytes; vectors of others are not theirs."""

    embedder: Embedder
    judge: Judge
    mark: bytes = bytes(8)


class Cascade:
    """Bound to a worker's index. Finds nothing until it has its `models`, for until then it learns nothing."""

    def __init__(self, index: Index, models: Models | None = None) -> None:
        self.index = index
        self.models = models

    def learn(self, context: str, digest: str, text: str, until_ms: int, static: Vector | None = None) -> None:
        """A text whose answer is kept; its static vector is made if it is not given. About 0.1 ms. One that the network
        does not read whole is never found, and so not learnt."""
        if self.models is not None and self.models.judge.fits(text):
            read_facts(text)
            vector = self.models.embedder.embed(text) if static is None else static
            self.index.put(context, digest, text, vector, until_ms)

    async def best(self, context: str, text: str, now_ms: int, deadline_s: float) -> Candidate | Why:
        """The survivor that is nearest."""
        if self.models is None or context not in self.index:
            return "empty"
        judge = self.models.judge
        if not judge.fits(text):
            return "long"
        near = self.index.nearest(context, self.models.embedder.embed(text), now_ms)
        near = hopeful(text, near)
        if not near:
            return "far"
        survivors = allowed(text, near)
        if not survivors:
            return "vetoed"
        cosines = await judge.cosines(text, [one.text for one in survivors], deadline_s)
        if cosines is None:
            return "late"
        cosine, one = max(zip(map(joined, cosines, survivors), survivors, strict=True), key=lambda pair: pair[0])
        return Candidate(one.digest, one.text, cosine)


def hopeful(text: str, near: Iterable[Near]) -> list[Near]:
    """Those that the network may find near. Never a verdict for a text, only against one."""
    content = read_facts(text).content
    return [one for one in near if one.cosine + _WORDS * _shared(content, read_facts(one.text).content) >= _HOPE]


def joined(cosine: float, one: Near) -> float:
    """The cosine that decides: the network's, and a little of the static vectors', which see the words themselves."""
    return _SAY * cosine + (1 - _SAY) * one.cosine


def _shared(a: frozenset[str], b: frozenset[str]) -> float:
    """The share of the words of both that both have (Jaccard); 1 where there are none to tell by."""
    return len(a & b) / len(a | b) if a or b else 1.0


def allowed(text: str, near: Iterable[Near], most: int = SURVIVORS) -> list[Near]:
    """The first few that no guard objects to."""
    asked = read_facts(text)
    return list(islice((one for one in near if veto(asked, read_facts(one.text)) is None), most))
