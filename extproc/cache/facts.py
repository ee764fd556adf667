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
from importlib import resources
from itertools import chain

import msgspec

from extproc.cache import lexicon as lx

_POLITE = re.compile(lx.POLITE, re.IGNORECASE)
_FENCE = re.compile(r"```.*?```|`[^`]+`", re.DOTALL)
_CODE_CHARS = re.compile(r"[(){}\[\]<>=\\^$_|~;@#*+]|::|://|\.\w+\(|^--?\w|\w/\w|\w\.[A-Za-z]{2,}")
_MAY_BE_CODE = re.compile(r"[`(){}\[\]<>=\\^$_|~;@#*+:/.-]")  # most prompts have nothing that code needs
_AMOUNT = re.compile(r"[$€£¥]?\d[\d,.]*[kKmM]?[$€£¥%]?|[cC]#|[fF]#|[cC]\+\+")  # money and the like are no code
_TOKEN = re.compile(r"[cC]\+\+|[cCfF]#|[$€£¥%°℃]|\d[\w.,:/-]*\w|\d|[^\W\d_][^\W_]*(?:'[^\W\d_]+)?|[.?!:]")
_AMOUNT_COMMA = re.compile(r"(?<=\d),(?=\d{3}\b)")
_NUMBER_UNIT = re.compile(r"(\d[\d.,]*)([a-zA-Zµ°]{1,4})")
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")
_CONTRACTIONS = {"can't": "can not", "cannot": "can not", "won't": "will not", "shan't": "shall not", "ain't": "is not"}
_ENDINGS = (("n't", " not"), ("'re", " are"), ("'ll", " will"), ("'ve", " have"), ("'m", " am"), ("'d", " would"))
_S_IS = frozenset(("what", "where", "who", "how", "that", "it", "there", "here", "when", "why", "he", "she", "let"))
_ROMAN = re.compile(r"(?=[IVX])X{0,3}(?:IX|IV|V?I{0,3})")
_ROMAN_VALUE = {"I": 1, "V": 5, "X": 10}
_SENTENCE_END = frozenset(".?!:")
_TITLE_SHARE = 0.6  # of the words inside a sentence: above it capitals are a style, not a mark of names
_QUOTES = str.maketrans(
    dict.fromkeys("\u2019\u2018\u00b4", "'")
    | dict.fromkeys("\u201c\u201d", '"')
    | dict.fromkeys("\u2013\u2014\u2212", "-")
)
_SHORT_UNITS = {"s": "seconds", "ms": "ms", "m": "m", "h": "hours", "g": "gram", "l": "liter"}
_SHORT_UNITS |= {"C": "celsius", "F": "fahrenheit"}
_BEFORE_FIRST = frozenset(("the", "my", "your", "our", "his", "her", "their", "its"))
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
    tokens = _arabic(_TOKEN.findall(_AMOUNT_COMMA.sub("", text)))
    words = tuple(map(sys.intern, _words(tokens)))  # kept by many prompts, and compared
    names = _set(chain(map(stem, _names(tokens)), _marked(words)))
    numbers, rest = _numbers(tokens, words)
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


def _words(tokens: Iterable[str]) -> Iterator[str]:
    """Case-folded words with their contractions spelled out; no punctuation, no numbers."""
    for token in tokens:
        word = token.casefold()
        if "'" in word or word in _CONTRACTIONS:
            yield from _spelled_out(word).split()
        elif word[0].isalpha() or word in lx.UNITS:
            yield word


def _spelled_out(word: str) -> str:
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
        bare = _spelled_out(word.casefold()).split()[0]
        if bare not in _OTHERWISE_READ:
            yield bare


def _marked(words: Iterable[str]) -> Iterator[str]:
    return (stem(word) for word in words if word not in _OTHERWISE_READ and (word in lx.MARKED or not is_common(word)))


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


def _numbers(tokens: Sequence[str], words: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The numbers, sorted, and what was written against them (`30ms` -> `ms`) with all words."""
    numbers, rest = [], list(words)
    folded = [token.casefold() for token in tokens]
    for token, before, after in zip(tokens, ["", *folded], [*folded[1:], ""], strict=False):
        number, unit = _number(token, before, after)
        if number:
            numbers.append(number)
        if unit:
            rest.append(unit)
    return tuple(sorted(numbers)), rest


def _number(token: str, before: str, after: str) -> tuple[str | None, str | None]:
    word = token.casefold()
    if word[0].isdigit():
        if match := _ORDINAL.fullmatch(word):
            return match[1], None
        match = _NUMBER_UNIT.fullmatch(token)
        if match and (match[2] in _SHORT_UNITS or match[2].casefold() in lx.UNITS):
            return match[1], _SHORT_UNITS.get(match[2], match[2].casefold())
        if match and word[-1] in "km":
            return word, None
        return word, None
    if word == "s" and before[:1].isdigit():
        return None, "seconds"
    if word in lx.NUMBERS and not _other_sense(word, before):
        return lx.NUMBERS[word], None
    if word == "one" and after in lx.MULTIPLES:
        return "1", None
    return None, None


def _other_sense(word: str, before: str) -> bool:
    """`first` as "to begin with", `second` as a unit."""
    if word == "first":
        return before not in _BEFORE_FIRST
    return word == "second" and (before[:1].isdigit() or before in ("per", "a"))


def _arabic(tokens: Sequence[str]) -> list[str]:
    """Roman numbers in digits: `II`, and one letter after a word such as chapter."""
    return [str(_roman(token)) if _is_roman(tokens, at) else token for at, token in enumerate(tokens)]


def _is_roman(tokens: Sequence[str], at: int) -> bool:
    token = tokens[at]
    return token[0] in _ROMAN_VALUE and bool(_ROMAN.fullmatch(token)) and (len(token) > 1 or _counts(tokens, at))


def _counts(tokens: Sequence[str], at: int) -> bool:
    return at > 0 and tokens[at - 1].casefold() in lx.ROMAN_AFTER


def _roman(token: str) -> int:
    values = [_ROMAN_VALUE[letter] for letter in token]
    return sum(-a if a < b else a for a, b in zip(values, [*values[1:], 0], strict=True))


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
