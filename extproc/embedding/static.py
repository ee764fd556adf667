"""The meaning of a text as 256 numbers, without a neural network: the weighted mean of its word pieces' vectors.

In: any text. Out: a float32 vector of length 1; texts that say alike things lie close (cosine). It is a shortlist and
a feature, never a verdict: word order and negation are lost. The table is MiniLM distilled (`train.distill`), 8 MB,
mapped into memory and so shared by all workers of a machine. Called by `extproc.routing.classify` and the semantic
cache.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

from extproc.embedding.limits import bounded
from extproc.embedding.wordpiece import WordPiece

DATA = Path(__file__).resolve().parent.parent / "data"
DIMENSIONS = 256
ROW = np.dtype([("scale", "<f4"), ("parts", "i1", DIMENSIONS)])  # a word piece: scale · parts

Vector = NDArray[np.float32]


class Pieces(NamedTuple):
    """Word pieces of a text, without their order."""

    each: NDArray[np.int32]  # their ids, ascending: an id is a rank by frequency
    times: NDArray[np.intp]


class StaticEmbedder:
    """The table and its vocabulary. `load` once, `embed` from any thread."""

    def __init__(self, table: NDArray[np.void], pieces: WordPiece) -> None:
        self._parts = table["parts"]
        self._scale = np.ascontiguousarray(table["scale"])
        self._pieces = pieces

    @classmethod
    @cache
    def load(cls) -> Self:
        """The table that comes with the gateway. The first call takes about 50 ms, later ones nothing."""
        return cls(np.load(DATA / "static.npy", mmap_mode="r"), WordPiece.load())

    def __len__(self) -> int:
        return len(self._scale)

    def embed(self, text: str) -> Vector:
        """The vector of `text`, shape (256,), length 1; all zeros when there is nothing to read in it."""
        ids = np.array(self._pieces.ids(bounded(text)), np.int32)
        return self._mean(ids, self._scale[ids])

    def pieces(self, text: str) -> Pieces:
        """The word pieces that `embed` reads in `text`."""
        return Pieces(*np.unique(np.fromiter(self._pieces.ids(bounded(text)), np.int32), return_counts=True))

    def mean(self, pieces: Pieces) -> Vector:
        """The vector of word pieces, as `embed` returns it."""
        each, times = pieces
        return self._mean(each, self._scale[each] * times.astype(np.float32))

    def _mean(self, ids: NDArray[np.int32], weights: Vector) -> Vector:
        # einsum, not @: BLAS would wake threads for it, and its sums differ from machine to machine.
        total = np.einsum("i,ij->j", weights, self._parts[ids].astype(np.float32))
        length = np.sqrt(np.einsum("i,i->", total, total))
        return cast("Vector", total / length if length > 0 else total)
