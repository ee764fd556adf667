"""Text -> ids of word pieces, as BERT's uncased tokenizer cuts them. Pure.

In: any text. Out: ids into the vocabulary, without [CLS] and [SEP]. A dictionary and a few regular expressions: most
words are in the vocabulary whole, so this is faster than handing the text to a library and reading its answer back. The
last texts are remembered, for who asks about one asks with more than one model. Called by `extproc.embedding.static`
and `extproc.cache.confirm`. Source: google-research/bert `tokenization.py`.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from itertools import chain
from typing import Self

from extproc.embedding.installed import FOLDER

UNKNOWN = (100,)  # [UNK]
MAX_WORD_CHARS = 100  # a longer word is unknown, as in BERT
_REMEMBERED = 128  # texts
_SHORT = (2, 1)  # the lengths of pieces that are looked for whatever follows

_DROPPED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffd]")
_IDEOGRAPHS = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ceaf\U0002f800-\U0002fa1f"
_ASCII_PUNCTUATION = "!-/:-@\\[-`{-~"
_ASCII_WORDS = re.compile(rf"[{_ASCII_PUNCTUATION}]|[^\s{_ASCII_PUNCTUATION}]+")


def _class_of(category: str) -> str:
    """The characters of a Unicode category beyond ASCII, for a character class.

    Of the first plane only: with what lies above (inscriptions, notation) the expression would be 200 times slower.
    """
    found = (chr(code) for code in range(0x80, 0x10000) if unicodedata.category(chr(code)).startswith(category))
    return "".join(map(re.escape, found))


_MARKS = re.compile(f"[{_class_of('Mn')}]")


class WordPiece:
    """A vocabulary, ready to cut text."""

    def __init__(self, pieces: Iterable[str]) -> None:
        """`pieces` in the order of their ids; one that goes on a word begins with ##."""
        listed = [(piece, (at,)) for at, piece in enumerate(pieces)]
        self._first = {piece: at for piece, at in listed if not piece.startswith("##")}
        self._next = {piece[2:]: at for piece, at in listed if piece.startswith("##")}
        self._first_lengths, self._next_lengths = _lengths(self._first), _lengths(self._next)
        single = rf"{_ASCII_PUNCTUATION}{_class_of('P')}{_IDEOGRAPHS}"
        self._words = re.compile(rf"[{single}]|[^\s{single}]+")
        self.ids: Callable[[str], tuple[int, ...]] = lru_cache(_REMEMBERED)(self._ids)

    @classmethod
    @cache
    def load(cls) -> Self:
        """The vocabulary that comes with the gateway, for all who read with it. About 40 ms, then nothing."""
        return cls((FOLDER / "vocabulary.txt").read_text("utf-8").splitlines())

    def _ids(self, text: str) -> tuple[int, ...]:
        """The ids of `text`, in order."""
        words = (_ASCII_WORDS if text.isascii() else self._words).findall(_normal(text))
        whole = map(self._first.get, words)
        return tuple(chain.from_iterable(ids or self._cut(word) for word, ids in zip(words, whole, strict=True)))

    def _cut(self, word: str) -> tuple[int, ...]:
        """The longest piece from the left, again and again; [UNK] when a rest is in no vocabulary."""
        if len(word) == 1 or len(word) > MAX_WORD_CHARS:
            return UNKNOWN
        out: list[int] = []
        known, lengths, at = self._first, self._first_lengths, 0
        while at < len(word):
            for length in lengths.get(word[at : at + 3], _SHORT):
                found = known.get(word[at : at + length])
                if found is not None:
                    break
            else:
                return UNKNOWN
            out += found
            at += length
            known, lengths = self._next, self._next_lengths
        return tuple(out)


def _lengths(pieces: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The lengths, from the longest, of what may begin with these three characters: others need not be looked for."""
    out: dict[str, set[int]] = {}
    for piece in pieces:
        if len(piece) > max(_SHORT):
            out.setdefault(piece[:3], set(_SHORT)).add(len(piece))
    return {start: tuple(sorted(found, reverse=True)) for start, found in out.items()}


def _normal(text: str) -> str:
    """Lower case, without accents and control characters."""
    if not text.isascii():
        text = _MARKS.sub("", unicodedata.normalize("NFD", text))
    return _DROPPED.sub("", text).lower()
