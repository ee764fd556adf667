"""Text -> ids of word pieces, as BERT's uncased tokenizer cuts them. Pure.

In: any text. Out: ids into the vocabulary, without [CLS] and [SEP]. A dictionary and a few regular expressions: most
words are in the vocabulary whole, so this is faster than handing the text to a library and reading its answer back.
Called by `extproc.embedding.static`. Source: google-research/bert `tokenization.py`.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping

UNKNOWN = 100  # [UNK]
MAX_WORD_CHARS = 100  # a longer word is unknown, as in BERT
_REMEMBERED = 16_384  # words that had to be cut, about 4 MB; in languages other than English that is most of them

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
        listed = [(piece, at) for at, piece in enumerate(pieces)]
        self._first = {piece: at for piece, at in listed if not piece.startswith("##")}
        self._next = {piece[2:]: at for piece, at in listed if piece.startswith("##")}
        self._first_reach, self._next_reach = _reach(self._first), _reach(self._next)
        single = rf"{_ASCII_PUNCTUATION}{_class_of('P')}{_IDEOGRAPHS}"
        self._words = re.compile(rf"[{single}]|[^\s{single}]+")
        self._cut: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """The ids of `text`, in order."""
        cut = _ASCII_WORDS if text.isascii() else self._words
        out: list[int] = []
        for word in cut.findall(_normal(text)):
            whole = self._first.get(word)
            if whole is None:
                out += self._cut.get(word) or self._remember(word)
            else:
                out.append(whole)
        return out

    def _remember(self, word: str) -> list[int]:
        if len(self._cut) >= _REMEMBERED:
            self._cut.clear()  # texts repeat their own words: a fresh start costs little
        cut = self._cut[word] = self._pieces(word)
        return cut

    def _pieces(self, word: str) -> list[int]:
        """The longest piece from the left, again and again; [UNK] when a rest is in no vocabulary."""
        if len(word) > MAX_WORD_CHARS:
            return [UNKNOWN]
        out: list[int] = []
        known, reach, at = self._first, self._first_reach, 0
        while at < len(word):
            for end in range(min(len(word), at + reach.get(word[at : at + 2], 1)), at, -1):
                found = known.get(word[at:end])
                if found is not None:
                    break
            else:
                return [UNKNOWN]
            out.append(found)
            known, reach, at = self._next, self._next_reach, end
        return out


def _reach(pieces: Mapping[str, int]) -> dict[str, int]:
    """The length of the longest piece that begins with these two characters: no longer one needs to be looked for."""
    out: dict[str, int] = {}
    for piece in pieces:
        out[piece[:2]] = max(out.get(piece[:2], 1), len(piece))
    return out


def _normal(text: str) -> str:
    """Lower case, without accents and control characters."""
    if not text.isascii():
        text = _MARKS.sub("", unicodedata.normalize("NFD", text))
    return _DROPPED.sub("", text).lower()
