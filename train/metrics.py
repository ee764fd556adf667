"""How good an order of prompts is for routing: APGR, CPT, and what is saved at a given quality.

In: a score a prompt (higher: send it to the strong model first) and what the weak and the strong model made of it. Out:
numbers as RouteLLM defines them (arXiv 2406.18665, section 3): the performance gap recovered (PGR) goes from 0 (all to
the weak model) to 1 (all to the strong one); APGR is its mean over all shares of strong calls.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def recovered(score: Floats, weak: Floats, strong: Floats) -> Floats:
    """PGR when the k prompts of highest score go to the strong model, k = 0 to n."""
    gains = (strong - weak)[np.argsort(-score, kind="stable")]
    return np.asarray(np.concatenate([[0.0], np.cumsum(gains)]) / gains.sum())


def apgr(score: Floats, weak: Floats, strong: Floats) -> float:
    """The mean of PGR over all shares of strong calls: .5 at random."""
    return float(np.trapezoid(recovered(score, weak, strong), dx=1 / len(score)))


def cpt(score: Floats, weak: Floats, strong: Floats, share: float) -> float:
    """The smallest share of strong calls, in percent, that recovers `share` of the gap (RouteLLM's CPT)."""
    return float(100 * np.argmax(recovered(score, weak, strong) >= share) / len(score))


def weak_share(score: Floats, weak: Floats, strong: Floats, quality: float) -> float:
    """The largest share of calls that can go to the weak model with at least `quality` of the strong one's quality."""
    gains = (strong - weak)[np.argsort(-score, kind="stable")]
    reached = weak.sum() + np.concatenate([[0.0], np.cumsum(gains)])
    return float(1 - np.argmax(reached >= quality * strong.sum() - 1e-9) / len(score))


def interval(measure: Callable[[NDArray[np.int64]], float], n: int, draws: int = 1000, seed: int = 0) -> Floats:
    """The 2.5 and 97.5 percentiles of `measure` over bootstrap samples of n rows."""
    rng = np.random.default_rng(seed)
    return np.percentile([measure(rng.integers(0, n, n)) for _ in range(draws)], [2.5, 97.5])
