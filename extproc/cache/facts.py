"""What a prompt says that an embedding does not see: its numbers, names, negations, units, dates, languages, code.

In: the text of a prompt. Out: `Facts`, made once per prompt and compared in pairs by `extproc.cache.guards`. Letter
case, Unicode form (NFKC), contractions, number words, plural and politeness are levelled first. Pure; about 0.1 ms.
"""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain

import msgspec

from extproc.cache import lexicon as lx
from extproc.cache.numbers import arabic, numbers_of
from extproc.cache.words import is_common, spelled_out, stem, words_of

_POLITE = re.compile(lx.POLITE, re.IGNORECASE)
_FENCE = re.compile(r"```.*?```|`[^`]+`", re.DOTALL)
_CODE_CHARS = re.compile(r"[(){}\[\]<>=\\^$_|~;@#*+]|::|://|\.\w+\(|^--?\w|\w/\w|\w\.[A-Za-z]{2,}")
_MAY_BE_CODE = re.compile(r"[`(){}\[\]<>=\\^$_|~;@#*+:/.-]")  # most prompts have nothing that code needs
_AMOUNT = re.compile(r"[$€£¥]?\d[\d,.]*[kKmM]?[$€£¥%]?|[cC]#|[fF]#|[cC]\+\+")  # money and the like are no code
_TOKEN = re.compile(r"[cC]\+\+|[cCfF]#|[$€£¥%°℃]|\d[\w.,:/-]*\w|\d|[^\W\d_][^\W_]*(?:'[^\W\d_]+)?|[.?!:]")
_AMOUNT_COMMA = re.compile(r"(?<=\d),(?=\d{3}\b)")
_SENTENCE_END = frozenset(".?!:")
_TITLE_SHARE = 0.6  # of the words inside a sentence: above it capitals are a style, not a mark of names
_QUOTES = str.maketrans(
    dict.fromkeys("\u2019\u2018\u00b4", "'")
    | dict.fromkeys("\u201c\u201d", '"')
    | dict.fromkeys("\u2013\u2014\u2212", "-")
)
_NONE: frozenset[str] = frozenset()
_OTHERWISE_READ = lx.STOPWORDS | lx.UNITS.keys() | lx.DATES.keys() | {"may", "march"}  # no names


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What is compared. Words are case-folded; stems are words without common endings."""

    text: str  # levelled and case-folded; two prompts with the same one are the same question
    written: str  # levelled, in its own letter case
    words: tuple[str, ...]
    stems: frozenset[str]  # of all words
    content: frozenset[str]  # stems of the words that carry meaning
    squashed: str  # letters and digits only
    names: frozenset[str]  # stems of names and of words no other can stand for
    numbers: tuple[str, ...]
    units: frozenset[str]
    dates: frozenset[str]
    languages: frozenset[str]  # named
    language: str | None  # written in, as far as function words or the script tell
    negations: int
    code: tuple[str, ...]
    degrees: frozenset[str]  # big++ for largest
    asks: frozenset[str]  # who, when, how many, …
    owners: frozenset[str]  # my, your, …
    sources: frozenset[str]  # words after "from"
    starts: frozenset[str]  # words on the left of "to"
    goals: frozenset[str]  # words after "to", "into"
    order: tuple[str, ...]  # names and the two sides of "than", as they come
    commutative: bool  # joined by "and", "or", "between"


def facts(prompt: str) -> Facts:
    """Read a prompt."""
    text = _level(prompt)
    code = tuple(_code(text))
    tokens = arabic(_TOKEN.findall(_AMOUNT_COMMA.sub("", text)))
    words = tuple(map(sys.intern, words_of(tokens)))  # kept by many prompts, and compared
    names = _set(chain(map(stem, _names(tokens)), _marked(words)))
    numbers, rest = numbers_of(tokens, words)
    return Facts(
        text=_flat(text),
        written=text,
        words=words,
        stems=_set(map(stem, words)),
        content=_set(stem(word) for word in words if word not in lx.STOPWORDS),
        squashed="".join(words),
        names=names,
        numbers=numbers,
        units=_units(rest, text),
        dates=_set(_dates(words, tokens)),
        languages=_set(word for word in words if word in lx.LANGUAGES),
        language=_script(text) or _spoken(words),
        negations=sum(word in lx.NEGATIONS for word in words),
        code=code,
        degrees=_set(lx.DEGREES[word] for word in words if word in lx.DEGREES),
        asks=_set(_asks(words)),
        owners=_set(lx.OWNERS[word] for word in words if word in lx.OWNERS),
        sources=_set(_beside(words, "from", 1)),
        starts=_set(_beside(words, "to", -1)),
        goals=_set(chain(_beside(words, "to", 1), _beside(words, "into", 1))),
        order=tuple(_order(words, names)),
        commutative=not {"and", "or", "between", "vs", "versus", "&"}.isdisjoint(words),
    )


def _set(found: Iterable[str]) -> frozenset[str]:
    """Most are empty, and an empty one of its own would be 216 bytes that the collector looks at."""
    return frozenset(found) or _NONE


def _level(prompt: str) -> str:
    """NFKC, plain quotes, single spaces, without politeness."""
    text = prompt if prompt.isascii() else unicodedata.normalize("NFKC", prompt).translate(_QUOTES)
    return " ".join(_POLITE.sub(" ", " ".join(text.split())).split())


def _flat(text: str) -> str:
    """For equality: case-folded, without closing punctuation."""
    return text.casefold().rstrip(" .?!")


def _code(text: str) -> Iterator[str]:
    """Pieces of code: what is between backticks, piece by piece, and words made of code's characters."""
    if not _MAY_BE_CODE.search(text.rstrip(" .?!:;")):
        return
    for fenced in _FENCE.findall(text):
        yield from _clean(fenced.strip("`").split())
    yield from _clean(piece for piece in _FENCE.sub(" ", text).split() if _is_code(piece))


def _is_code(piece: str) -> bool:
    bare = piece.strip("\"'.,?!:;")
    if bare[:1] == "(" or bare[-1:] == ")":  # an aside in brackets
        bare = bare.strip("()") if bare.count("(") != bare.count(")") or bare[:1] == "(" else bare
    return bool(_CODE_CHARS.search(bare)) and not _AMOUNT.fullmatch(bare)


def _clean(pieces: Iterable[str]) -> Iterator[str]:
    return (bare for piece in pieces if (bare := piece.strip("\"'.,?!:;")))


def _names(tokens: Sequence[str]) -> Iterator[str]:
    """Words written with a capital inside a sentence, unless capitals are the style of the whole text."""
    inside = [(word, tokens[at - 1]) for at, word in enumerate(tokens) if at and word[0].isalpha() and word != "I"]
    capital = [word for word, before in inside if word[0].isupper() and before not in _SENTENCE_END]
    if len(capital) >= 4 and len(capital) > _TITLE_SHARE * len(inside):
        return
    for word in capital:
        bare = spelled_out(word.casefold()).split()[0]
        if bare not in _OTHERWISE_READ:
            yield bare


def _marked(words: Iterable[str]) -> Iterator[str]:
    return (stem(word) for word in words if word not in _OTHERWISE_READ and (word in lx.MARKED or not is_common(word)))


def _units(words: Iterable[str], text: str) -> frozenset[str]:
    found = {lx.UNITS[word] for word in words if word in lx.UNITS}
    found |= {lx.UNITS[sign] for sign in "$€£¥%" if sign in text}
    found |= {name for sign, name in (("°C", "celsius"), ("°F", "fahrenheit")) if sign in text}
    return _set(found)


def _dates(words: Sequence[str], tokens: Sequence[str]) -> Iterator[str]:
    for at, word in enumerate(words):
        near = words[at + 1 : at + 3]
        if word in lx.DATES and (word not in lx.DATES_IN_CONTEXT or not lx.PERIODS.isdisjoint(near)):
            yield lx.DATES[word]
    for at, token in enumerate(tokens):
        if at and token in ("May", "March") and tokens[at - 1] not in _SENTENCE_END:
            yield token.casefold()


_SCRIPTS = (
    ("ru", "\u0400", "\u04ff"), ("el", "\u0370", "\u03ff"), ("he", "\u0590", "\u05ff"), ("ar", "\u0600", "\u06ff"),
    ("hi", "\u0900", "\u097f"), ("th", "\u0e00", "\u0e7f"), ("ja", "\u3040", "\u30ff"), ("ko", "\uac00", "\ud7af"),
    ("zh", "\u4e00", "\u9fff"),
)  # fmt: skip


def _script(text: str) -> str | None:
    """The language of a script that is not Latin and makes up a third of the text or more."""
    if text.isascii():
        return None
    counts = Counter(name for letter in text for name, low, high in _SCRIPTS if low <= letter <= high)
    name, count = counts.most_common(1)[0] if counts else (None, 0)
    if name == "zh" and counts["ja"]:
        name = "ja"
    return name if 3 * count > sum(letter.isalpha() for letter in text) else None


@lru_cache(maxsize=1)
def _function_words() -> dict[str, str]:
    uses = Counter(word for words in lx.FUNCTION_WORDS.values() for word in words)
    return {word: name for name, words in lx.FUNCTION_WORDS.items() for word in words if uses[word] == 1}


def _spoken(words: Iterable[str]) -> str | None:
    table = _function_words()
    votes = [table[word] for word in words if word in table]
    if len(set(votes)) < 2:  # nearly always
        return votes[0] if votes else None
    (first, most), (_, next_most) = Counter(votes).most_common(2)
    return first if most > next_most else None


def _asks(words: Sequence[str]) -> Iterator[str]:
    for at, word in enumerate(words):
        if word == "how" and at + 1 < len(words) and words[at + 1] in lx.ASKS_AFTER_HOW:
            yield f"how {words[at + 1]}"
        elif word in lx.ASKS:
            yield word


def _beside(words: Sequence[str], pivot: str, step: int) -> Iterator[str]:
    """Stems of the content words next to each `pivot`; articles and owners between are skipped."""
    for at, word in enumerate(words):
        if word != pivot:
            continue
        beside = words[at + 1 : at + 4] if step > 0 else words[max(at - 3, 0) : at][::-1]
        found = next((near for near in beside if near not in lx.STOPWORDS), None)
        if found:
            yield stem(found)


def _order(words: Sequence[str], names: frozenset[str]) -> Iterator[str]:
    """Names, and what stands around "than", in the order of the text."""
    for word in words:
        if word not in lx.STOPWORDS and (stem(word) in names or "than" in words):
            yield stem(word)
