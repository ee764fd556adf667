"""The trained model of how hard a request is: two heads over one row of numbers. Pure numpy.

In: a text. Out: `Reading`: a score and what weighed most. The *task* head (linear, over features and the static
embedding) was trained on everyday prompts and says what a person would say; the *gain* head (extremely randomised
trees over the features, plus the length) was trained on which models answered which prompts right, and says where a
stronger model helps. Weights: extproc/data/routing.npz, made by `train.router`. Called by `extproc.routing.classify`.
"""

import math
from functools import cache
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from extproc.embedding.limits import bounded
from extproc.embedding.static import DATA, StaticEmbedder
from extproc.routing.features import NAMES, READ_CHARS, features

Floats = NDArray[np.float32]

EMBEDDING_SCALE = 3.0  # an embedding's parts are about 1/16: beside features of 0 to 1 they would not be heard

# What a feature is called as the reason of a decision; all others count as `length`.
REASONS = {
    "chat": "small_talk",
    "lookup": "lookup",
    "transform": "text_transformation",
    "write": "writing",
    "explain": "explanation",
    "reason": "reasoning",
    "build": "engineering",
    "expert": "expertise",
    "steps": "several_steps",
    "brief": "brief_answer",
    "code": "code",
    "brackets": "code",
    "fence": "code",
    "latex": "mathematics",
    "symbols": "mathematics",
    "numbers": "numbers",
    "digits": "numbers",
    "foreign": "wording",
}


class Reading(msgspec.Struct, frozen=True):
    """What the model makes of a text."""

    logit: float  # 0 is half way between simple and hard
    reason: str  # the kind of feature that weighed most


class Forest(msgspec.Struct, frozen=True):
    """Regression trees as flat arrays: all trees go down one level at a time. A leaf points to itself."""

    roots: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float64]
    depth: int

    def __call__(self, row: Floats) -> float:
        """The mean of the trees' values for a row of features."""
        at = self.roots
        for _ in range(self.depth):
            at = np.where(row[self.feature[at]] <= self.threshold[at], self.left[at], self.right[at])
        return float(self.value[at].mean())


class RoutingModel:
    """The weights."""

    def __init__(self, arrays: dict[str, NDArray[Any]], embedder: StaticEmbedder) -> None:
        self._embedder = embedder
        self._task, self._bias, self._centre = arrays["task"], arrays["task_bias"], arrays["task_centre"]
        self._towards = self._task - self._task.mean(axis=0)
        tree: dict[str, Any] = {name: arrays[f"tree_{name}"] for name in Forest.__struct_fields__[:-1]}
        self._forest = Forest(**tree, depth=int(arrays["tree_depth"]))
        self._gain_mean, self._gain_scale, self._length_mean, self._length_weight = arrays["gain"]
        self.gain_weight = float(arrays["gain_weight"])
        self.quantiles = tuple(map(float, arrays["quantiles"]))  # scores below which 0 to 100 % of the training mix lie

    @classmethod
    @cache
    def load(cls) -> Self:
        """The model that comes with the gateway. The first call takes about 100 ms, later ones nothing."""
        with np.load(DATA / "routing.npz") as arrays:
            return cls(dict(arrays), StaticEmbedder.load())

    def read(self, text: str, chars: int) -> Reading:
        """How hard `text` looks; `chars` is the length that it counts as."""
        text = bounded(text, READ_CHARS)
        pieces = self._embedder.pieces(text)
        row = features(text, chars, pieces)
        task, reason = self._task_of(row, self._embedder.mean(pieces))
        gain = (self._forest(row) - self._gain_mean) / self._gain_scale
        length = (float(row[0]) - self._length_mean) * self._length_weight
        return Reading(task + self.gain_weight * float(gain + length), reason)

    def _task_of(self, row: Floats, embedding: Floats) -> tuple[float, str]:
        """The logit of the expected tier, and the reason's name."""
        inputs = np.concatenate([row, EMBEDDING_SCALE * embedding]).astype(np.float64)
        logits = np.einsum("ij,j->i", self._task, inputs) + self._bias
        odds = np.exp(logits - logits.max())
        _, medium, hard = odds / odds.sum()
        most = int(odds.argmax())
        reason = _reason(self._towards[most] * (inputs - self._centre))
        if reason == "length":
            reason = "long_text" if most else "short_text"
        return logit(float(hard + medium / 2)), reason


def logit(share: float) -> float:
    """0 to 1 -> a number around 0, kept within about ±9."""
    return math.log((share + 1e-4) / (1 - share + 1e-4))


def _reason(weighed: NDArray[np.float64]) -> str:
    """The name of the features that weighed most; `wording` when the embedding outweighs them by far."""
    total: dict[str, float] = {}
    for name, weight in zip(NAMES, weighed, strict=False):
        reason = REASONS.get(name, "length")
        total[reason] = total.get(reason, 0.0) + float(weight)
    most = max(total, key=lambda name: total[name])
    return most if total[most] > 0.3 * weighed[len(NAMES) :].sum() and total[most] > 0 else "wording"
