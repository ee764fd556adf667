"""The cascade with steps left out, over a fixed set of cached prompts: the best candidate and its score.

In: cached prompts, asked ones, which steps. Out: for each asked prompt its score and whether that hit would be right;
no candidate is a score of 0. The steps are the product's own.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.cache.data import Prompt
from extproc.cache.cascade import SURVIVORS, allowed, hopeful, joined
from extproc.cache.confirm import Confirmer
from extproc.cache.index import Index
from extproc.embedding.static import StaticEmbedder

CONTEXT = "eval"
UNTIL_MS = 2**62


class Steps(NamedTuple):
    """Without `network` the static cosine is the score."""

    name: str
    guards: bool
    network: bool


ALL_STEPS = (
    Steps("static vectors alone", guards=False, network=False),
    Steps("static vectors, guards", guards=True, network=False),
    Steps("static shortlist, MiniLM", guards=False, network=True),
    Steps("whole cascade", guards=True, network=True),
)


class Scored(NamedTuple):
    """One asked prompt. `possible`: there is a right answer among the cached."""

    score: float
    right: bool
    possible: bool


def run(cached: list[Prompt], asked: list[Prompt], steps: Steps) -> list[Scored]:
    """Ask everything."""
    embedder, judge, index = StaticEmbedder.load(), Confirmer.load(), Index(len(cached))
    label = {str(at): prompt.label for at, prompt in enumerate(cached)}
    for at, prompt in enumerate(cached):
        index.put(CONTEXT, str(at), prompt.text, embedder.embed(prompt.text), UNTIL_MS)
    labels = set(label.values())
    out = []
    for prompt in asked:
        near = index.nearest(CONTEXT, embedder.embed(prompt.text), 0)
        near = hopeful(prompt.text, near) if steps.network else near
        near = allowed(prompt.text, near) if steps.guards else near
        if steps.network:
            near = [one for one in near[:SURVIVORS] if judge.fits(one.text) and judge.fits(prompt.text)]
            scores = list(map(joined, judge.compare(prompt.text, [one.text for one in near]), near))
        else:
            scores = [one.cosine for one in near]
        score, best = max(zip(scores, near, strict=True), default=(0.0, None))
        right = best is not None and label[best.digest] == prompt.label
        out.append(Scored(score, right, prompt.label in labels))
    return out


class Curve(NamedTuple):
    """Precision and recall when everything from a score on is served."""

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    share: NDArray[np.float64]  # of all asked prompts that are served


def curve(scored: list[Scored]) -> Curve:
    """From the strictest threshold down."""
    hits = sorted((one for one in scored if one.score > 0), key=lambda one: -one.score)
    right = np.cumsum([one.right for one in hits])
    served = np.arange(1, len(hits) + 1)
    possible = max(1, sum(one.possible for one in scored))
    return Curve(np.array([one.score for one in hits]), right / served, right / possible, served / len(scored))


def at(scored: list[Scored], threshold: float) -> tuple[int, int]:
    """Hits, and wrong ones, from a threshold on."""
    hits = [one for one in scored if one.score >= threshold]
    return len(hits), sum(not one.right for one in hits)
