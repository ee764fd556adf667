"""What can be read off a text about how hard it is to answer: a fixed row of numbers. Pure.

In: a text and its word pieces. Out: one number for each of `NAMES`, mostly between 0 and 1. They are counted over the
text as `bounded` leaves it at `READ_CHARS`, but `length`, which knows the whole. Nothing here knows a dataset:
no answer options, no wrappers, no names. Called by `extproc.routing.classify` and by the training.
"""

import math
import re
from collections.abc import Sequence
from importlib import resources
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from extproc.embedding.static import Pieces

READ_CHARS = 1536  # validation is the same at 4,096, and 6 % of the training's prompts are longer
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")  # noqa: RUF001 - both apostrophes are written
_ASCII_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")  # the same in a text that is ASCII, in half the time
_NUMBER = re.compile(r"\d+")
_CAPITAL = re.compile(r"[A-Z](?<=[a-z,] [A-Z])[a-z]+")  # the look behind comes second: a set alone is searched for fast
_SYMBOLS = "=+^*<>~∑∫√≤≥∈∀∃→"
_CODE = "{}[];_"
_EDGE_WORDS = 60  # a request says what it wants at its beginning or its end
_EDGE_CHARS = 240


def _kinds() -> dict[str, tuple[frozenset[str], tuple[str, ...]]]:
    """extproc/data/routing_words.txt: kind -> (words and pairs, what is looked for anywhere)."""
    lines = resources.files("extproc.data").joinpath("routing_words.txt").read_text("utf-8").splitlines()
    out = {}
    for line in lines:
        if not line.startswith("#"):
            kind, _, rest = line.partition(":")
            spaced, _, joined = rest.partition("|")
            out[kind] = frozenset(word.replace("_", " ") for word in spaced.split()), tuple(joined.split())
    return out


_KINDS = _kinds()
NAMES = (
    "length",
    "words",
    "word_length",
    "lines",
    "sentences",
    "questions",
    "commas",
    "numbers",
    "digits",
    "symbols",
    "brackets",
    "fence",
    "latex",
    "names",
    "foreign",
    "rarity",
    "rare",
    "pieces",
    "repeats",
    "quotes",
    *_KINDS,
)


def features(text: str, chars: int, pieces: Pieces) -> NDArray[np.float32]:
    """The numbers, shape (len(NAMES),). `text`: bounded; `chars`: of the whole; `pieces`: the text's."""
    words = (_ASCII_WORD if text.isascii() else _WORD).findall(text.lower())
    size = max(1, len(text))
    count = max(1, len(words))
    row = (
        math.log1p(chars) / 10,
        math.log1p(len(words)) / 7,
        sum(map(len, words)) / count / 10,
        math.log1p(text.count("\n")) / 4,
        math.log1p(text.count(". ") + text.count(".\n")) / 4,
        min(3, text.count("?") + text.count("?")) / 3,
        10 * (text.count(",") + text.count(";")) / size,
        math.log1p(len(numbers := _NUMBER.findall(text))) / 4,
        10 * sum(map(len, numbers)) / size,
        20 * sum(map(text.count, _SYMBOLS)) / size,
        20 * sum(map(text.count, _CODE)) / size,
        float("```" in text),
        20 * (text.count("\\") + text.count("$")) / size,
        len(_CAPITAL.findall(text)) / count,
        (len(text.encode("utf-8", "surrogatepass")) - len(text)) / size,
        *_rarity(pieces),
        min(4, text.count('"') + text.count("'")) / 4,
        *_kinds_of(text, words),
    )
    return np.minimum(np.array(row, np.float32), 2)


def _rarity(pieces: Pieces) -> tuple[float, float, float, float]:
    """How rare the word pieces are, the rarest tenth of them, how many there are, repeats."""
    count = int(pieces.times.sum())
    if not count:
        return 0.0, 0.0, 0.0, 0.0
    ranks = np.repeat(np.log(np.maximum(pieces.each, 1000) / 1000) / 3.5, pieces.times)  # ascending, as the ids
    rarest = max(1, count // 10)
    return (
        float(ranks.mean()),
        float(ranks[-rarest:].mean()),
        math.log1p(count) / 7,
        1 - len(pieces.each) / count,
    )


def _kinds_of(text: str, words: Sequence[str]) -> list[float]:
    """How often each kind's words stand at the edges of the text, up to three times."""
    edges = words if len(words) <= 2 * _EDGE_WORDS else (*words[:_EDGE_WORDS], *words[-_EDGE_WORDS:])
    found = {*edges, *(f"{one} {two}" for one, two in pairwise(edges))}
    ends = "" if text.isascii() else text[:_EDGE_CHARS] + text[-_EDGE_CHARS:]
    return [min(3, len(found & spaced) + sum(map(ends.__contains__, joined))) / 3 for spaced, joined in _KINDS.values()]
