"""Makes extproc/data/routing.npz: the weights of `extproc.routing.model`, and the table its thresholds come from.

In: LLMRouter's outcomes and, to validate only, MMLU's (`train.outcomes`; their digests are pinned there), the everyday
prompts beside this file, the static embedding. Out: the weights, their digest, and what validation said. Run as

    .venv/bin/uv pip install --group train
    .venv/bin/python -m train.router [folder of the routing data]

Without the data it says what it lacks. Nothing of a held-out side is looked at here: `make eval-routing` does that.
"""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import LogisticRegression

from extproc.embedding.limits import bounded
from extproc.embedding.static import DATA, DIMENSIONS, StaticEmbedder
from extproc.routing.features import READ_CHARS, features
from extproc.routing.model import EMBEDDING_SCALE
from train.everyday import prompts
from train.metrics import apgr
from train.outcomes import DEFAULT, STRONG, STRONG_MMLU, WEAK, WEAK_MMLU, Outcomes, hashed, llmrouter, mmlu, stripped

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

TIERS = ("simple", "medium", "hard")
TREES, LEAF = 100, 60  # leaves of 60 prompts: smaller ones gained on LLMRouter and lost on MMLU
LENGTH_WEIGHT = 0.5  # of the standardised length beside the trees
GAIN_WEIGHT = 0.2  # of the gain head beside the task head
BENCHMARK_WEIGHT = 0.02  # of a benchmark's prompt beside an everyday one
FOLDS = 5


def main(folder: Path) -> None:
    """Train, say what validation says, write the weights."""
    answers, exams = llmrouter(folder), mmlu(folder)
    answers, exams = answers.part(~answers.held_out), exams.part(~exams.held_out)
    everyday = prompts()
    x, x_exams, x_day = (
        inputs(texts)
        for texts in (answers.prompts, [stripped(prompt) for prompt in exams.prompts], [text for _, text in everyday])
    )
    tiers = np.array([TIERS.index(tier) for tier, _ in everyday])
    gains = answers.models[STRONG] - np.mean([answers.models[name] for name in WEAK], axis=0)

    forest = gain_head(x, gains)
    unseen = folded(answers.prompts, lambda a, b: gain_head(x[a], gains[a]).predict(numbers(x[b])))
    scale = np.array([unseen.mean(), unseen.std(), x[:, 0].mean(), LENGTH_WEIGHT / x[:, 0].std()])
    gain = gain_logit(unseen, x, scale)
    gain_day, gain_exams = (gain_logit(forest.predict(numbers(rows)), rows, scale) for rows in (x_day, x_exams))

    # One linear model for both: what a person says of everyday prompts, and thirds by gain of the benchmark's.
    both, said = np.vstack([x_day, x]), np.concatenate([tiers, np.digitize(gain, np.percentile(gain, [33, 67]))])
    weights = np.concatenate([np.ones(len(tiers)), np.full(len(gain), BENCHMARK_WEIGHT)])
    task = task_head(both, said, weights)
    unseen_task = folded(
        [text for _, text in everyday] + answers.prompts,
        lambda a, b: expected(task_head(both[a], said[a], weights[a]), both[b]),
    )
    day, score, score_exams = (
        logits(share) for share in (unseen_task[: len(tiers)], unseen_task[len(tiers) :], expected(task, x_exams))
    )

    show("length", np.zeros(len(tiers)), x[:, 0], x_exams[:, 0], answers, exams, tiers)
    for weight in sorted({0.0, 0.15, 0.3, GAIN_WEIGHT, 1.0}):
        mixed = day + weight * gain_day, score + weight * gain, score_exams + weight * gain_exams
        show(f"gain x {weight}", *mixed, answers, exams, tiers)
        if weight == GAIN_WEIGHT:
            quantiles = np.mean([np.percentile(1 / (1 + np.exp(-part)), range(101)) for part in mixed], axis=0)

    np.savez(
        DATA / "routing.npz",
        task=task.coef_.astype(np.float32),
        task_bias=task.intercept_,
        task_centre=x_day.mean(axis=0).astype(np.float32),
        gain=scale,
        gain_weight=np.array(GAIN_WEIGHT),
        quantiles=quantiles,
        **flat(forest),
    )
    print(hashlib.sha256((DATA / "routing.npz").read_bytes()).hexdigest(), "routing.npz")


def inputs(texts: list[str]) -> Floats:
    """What the model sees of each text: features, then the embedding."""
    embedder = StaticEmbedder.load()
    rows = []
    for text in texts:
        read = bounded(text, READ_CHARS)
        pieces = embedder.pieces(read)
        rows.append(np.concatenate([features(read, len(text), pieces), EMBEDDING_SCALE * embedder.mean(pieces)]))
    return np.array(rows, float)


def numbers(x: Floats) -> Floats:
    """The features alone."""
    return x[:, :-DIMENSIONS]


def task_head(x: Floats, tiers: Rows, weights: Floats) -> LogisticRegression:
    """Which tier a person would choose."""
    return LogisticRegression(C=3.0, max_iter=1000).fit(x, tiers, sample_weight=weights)


def expected(task: LogisticRegression, x: Floats) -> Floats:
    """The expected tier, 0 (simple) to 1 (hard)."""
    return np.asarray(task.predict_proba(x) @ np.array([0.0, 0.5, 1.0]))


def gain_head(x: Floats, gains: Floats) -> ExtraTreesRegressor:
    """How much better the strong model answers than the weak ones do."""
    forest = ExtraTreesRegressor(TREES, min_samples_leaf=LEAF, max_features=0.4, random_state=0)
    return forest.fit(numbers(x), gains)


def gain_logit(predicted: Floats, x: Floats, scale: Floats) -> Floats:
    """The gain head's word, with the length's, as `RoutingModel.read` puts them together."""
    return np.asarray((predicted - scale[0]) / scale[1] + (x[:, 0] - scale[2]) * scale[3])


def logits(share: Floats) -> Floats:
    """As `extproc.routing.model.logit`."""
    return np.asarray(np.log((share + 1e-4) / (1 - share + 1e-4)))


def folded(texts: list[str], predict: Callable[[Rows, Rows], Floats]) -> Floats:
    """Predictions for each text by a model that has not seen it. `predict(train, test)` trains and predicts."""
    fold = np.array([hashed(f"fold:{text}") % FOLDS for text in texts])
    out = np.zeros(len(texts))
    for one in range(FOLDS):
        out[fold == one] = predict(np.flatnonzero(fold != one), np.flatnonzero(fold == one))
    return out


def show(
    name: str, day: Floats, score: Floats, score_exams: Floats, answers: Outcomes, exams: Outcomes, tiers: Rows
) -> None:
    """A line of validation."""
    cuts = np.sort(day)[::4]
    right, simple, hard = (
        max(
            (float((np.digitize(day, [low, high]) == tiers).mean()), low, high)
            for low in cuts
            for high in cuts[cuts > low]
        )
        if day.any()
        else (0.0, 0.0, 0.0)
    )
    pairs = " ".join(f"{apgr(score, answers.models[weak], answers.models[STRONG]):.3f}" for weak in WEAK)
    exam = apgr(score_exams, exams.models[WEAK_MMLU], exams.models[STRONG_MMLU])
    print(f"{name:12} everyday {right:.3f} right at logits {simple:.2f} and {hard:.2f}")
    print(f"{name:12} APGR LLMRouter {pairs}, MMLU stripped {exam:.3f}")


def flat(forest: ExtraTreesRegressor) -> dict[str, Any]:
    """The trees as the arrays of `extproc.routing.model.Forest`."""
    trees = [estimator.tree_ for estimator in forest.estimators_]
    starts = np.concatenate([[0], np.cumsum([tree.node_count for tree in trees])])
    parts: dict[str, list[NDArray[Any]]] = {"feature": [], "threshold": [], "left": [], "right": [], "value": []}
    for tree, start in zip(trees, starts, strict=False):
        itself = np.arange(tree.node_count)
        leaf = tree.children_left < 0
        parts["feature"].append(np.where(leaf, 0, tree.feature).astype(np.int32))
        parts["threshold"].append(tree.threshold)
        parts["left"].append((start + np.where(leaf, itself, tree.children_left)).astype(np.int32))
        parts["right"].append((start + np.where(leaf, itself, tree.children_right)).astype(np.int32))
        parts["value"].append(tree.value[:, 0, 0])
    arrays = {f"tree_{name}": np.concatenate(values) for name, values in parts.items()}
    depth = max(tree.max_depth for tree in trees)
    return {**arrays, "tree_roots": starts[:-1].astype(np.int32), "tree_depth": np.array(depth)}


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT)
