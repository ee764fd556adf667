"""English words and their forms: contractions spelled out, stems, and which words are common. Pure.

In: tokens, words. Out: case-folded words and stems. Called by `cache.facts`, stems by `cache.guards` too.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib import resources

from extproc.cache import lexicon as lx

_CONTRACTIONS = {"can't": "can not", "cannot": "can not", "won't": "will not", "shan't": "shall not", "ain't": "is not"}
_ENDINGS = (("n't", " not"), ("'re", " are"), ("'ll", " will"), ("'ve", " have"), ("'m", " am"), ("'d", " would"))
_S_IS = frozenset(("what", "where", "who", "how", "that", "it", "there", "here", "when", "why", "he", "she", "let"))


def words_of(tokens: Iterable[str]) -> Iterator[str]:
    """Case-folded words with their contractions spelled out; no punctuation, no numbers."""
    for token in tokens:
        word = token.casefold()
        if "'" in word or word in _CONTRACTIONS:
            yield from spelled_out(word).split()
        elif word[0].isalpha() or word in lx.UNITS:
            yield word


def spelled_out(word: str) -> str:
    """`don't` -> `do not`; a word as it is, if it is no contraction."""
    if word in _CONTRACTIONS:
        return _CONTRACTIONS[word]
    for ending, full in _ENDINGS:
        if word.endswith(ending):
            return word.removesuffix(ending) + full
    if word.endswith("'s"):
        word = word[:-2]
        return f"{word} is" if word in _S_IS else word
    return word


@lru_cache(maxsize=20_000)
def stem(word: str) -> str:
    """`crashes`, `crashing`, `crashed` -> `crash`. Rough: it only has to level forms of one word."""
    if len(word) > 4:
        for ending in ("ing", "ies", "ied", "ed", "es", "ly"):
            if word.endswith(ending) and len(word) - len(ending) >= 3:
                return _trimmed(word[: -len(ending)], ending)
    if len(word) > 3 and word[-1] == "s" and word[-2] not in "su":
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 4 else word


def _trimmed(root: str, ending: str) -> str:
    if ending in ("ies", "ied"):
        return root + "y"
    doubled = ending in ("ing", "ed") and root[-1] == root[-2] and root[-1] not in "lsz"
    return root[:-1] if doubled else root.removesuffix("e") if len(root) > 4 else root


@lru_cache(maxsize=20_000)
def is_common(word: str) -> bool:
    """Whether a word is a frequent English one, a form of one, or made of two; others are treated as names."""
    return len(word) < 3 or _known(word) or _known(stem(word)) or _joined(word)


def _known(word: str) -> bool:
    return any(word + ending in _common() for ending in _FORMS)


_FORMS = ("", "e", "s", "ed", "ing", "er", "or", "ion", "d", "r")
_PREFIXES = ("re", "un", "pre", "non", "sub", "multi", "over", "under", "mis", "dis")
_SUFFIXES = ("er", "or", "ize", "ise", "able", "ful", "less", "ness", "ment", "ation", "al", "ic", "y", "ity")


def _joined(word: str) -> bool:
    """`runtime`, `redirect`, `optimizer`."""
    heads, tails = (word[:at] for at in range(3, len(word) - 2)), (word[at:] for at in range(3, len(word) - 2))
    return (
        any(head in _common() and tail in _common() for head, tail in zip(heads, tails, strict=True))
        or any(
            word.startswith(start) and _known(word[len(start) :]) for start in _PREFIXES if len(word) > len(start) + 3
        )
        or any(word.endswith(end) and _known(word[: -len(end)]) for end in _SUFFIXES if len(word) > len(end) + 3)
    )


@lru_cache(maxsize=1)
def _common() -> frozenset[str]:
    return frozenset(resources.files("extproc.data").joinpath("vocabulary.txt").read_text("utf-8").split("\n"))
