"""Numbers in a text: in digits, in words, Roman, with a unit written against them. Pure.

In: tokens and words of a prompt. Out: numbers as texts of digits, and the units. Called by `cache.facts`.
"""

import re
from collections.abc import Sequence

from extproc.cache import lexicon as lx

_NUMBER_UNIT = re.compile(r"(\d[\d.,]*)([a-zA-Zµ°]{1,4})")
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")
_ROMAN = re.compile(r"(?=[IVX])X{0,3}(?:IX|IV|V?I{0,3})")
_ROMAN_VALUE = {"I": 1, "V": 5, "X": 10}
_SHORT_UNITS = {"s": "seconds", "ms": "ms", "m": "m", "h": "hours", "g": "gram", "l": "liter"}
_SHORT_UNITS |= {"C": "celsius", "F": "fahrenheit"}
_BEFORE_FIRST = frozenset(("the", "my", "your", "our", "his", "her", "their", "its"))


def numbers_of(tokens: Sequence[str], words: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
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


def arabic(tokens: Sequence[str]) -> list[str]:
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
