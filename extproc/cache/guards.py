"""Guards: why a cached answer must not stand in for another question, however near the two are to an embedding.

In: the facts of the new prompt and of a candidate's. Out: the name of the first guard that objects, or None. Pure, a
table of small predicates, a few microseconds a pair. Called by `extproc.cache.semantic` for each candidate.
"""

from collections.abc import Callable

from extproc.cache import lexicon as lx
from extproc.cache.facts import Facts
from extproc.cache.words import stem

Guard = Callable[[Facts, Facts], bool]


def _numbers(a: Facts, b: Facts) -> bool:
    return a.numbers != b.numbers


def _negation(a: Facts, b: Facts) -> bool:
    return a.negations != b.negations


def _code(a: Facts, b: Facts) -> bool:
    return sorted(a.code) != sorted(b.code) and not (_contained(a, b) and _contained(b, a))


def _contained(a: Facts, b: Facts) -> bool:
    """Whether each piece of code in `a` is, as a whole word, in `b`: backticks may be missing on one side."""
    pieces = {piece.strip("\"'.,?!:;") for piece in b.written.replace("`", " ").split()}
    return all(piece in pieces or piece in b.code for piece in a.code)


def _units(a: Facts, b: Facts) -> bool:
    return a.units != b.units


def _dates(a: Facts, b: Facts) -> bool:
    return a.dates != b.dates


def _language(a: Facts, b: Facts) -> bool:
    return a.languages != b.languages or (a.language != b.language and None not in (a.language, b.language))


def _names(a: Facts, b: Facts) -> bool:
    """A name on one side only; one written as one word here and as two there counts as the same."""
    return any(name not in b.stems and name not in b.squashed for name in a.names) or any(
        name not in a.stems and name not in a.squashed for name in b.names
    )


def _opposites(a: Facts, b: Facts) -> bool:
    """A word on one side whose opposite is on the other, by the table or by a prefix (safe, unsafe)."""
    only_a, only_b = set(a.words) - set(b.words), set(b.words) - set(a.words)
    stems_a, stems_b = set(map(stem, only_a)), set(map(stem, only_b))
    return any(_opposed(word, only_b, stems_b) for word in only_a) or any(
        _negates(word, only_a, stems_a) for word in only_b
    )


def _opposed(word: str, others: set[str], stems: set[str]) -> bool:
    opposites = _OPPOSITE_STEMS.get(word) or _OPPOSITE_STEMS.get(stem(word))
    return bool(opposites and not opposites.isdisjoint(stems)) or _negates(word, others, stems)


def _negates(word: str, others: set[str], stems: set[str]) -> bool:
    """`unsafe` where the other side has `safe`."""
    return word.startswith(lx.NEGATIVE_PREFIXES) and any(
        word.startswith(prefix) and (word[len(prefix) :] in others or stem(word[len(prefix) :]) in stems)
        for prefix in lx.NEGATIVE_PREFIXES
        if len(word) - len(prefix) > 2
    )


_OPPOSITE_STEMS: dict[str, frozenset[str]] = {}
for _word, _others in lx.OPPOSITES.items():
    for _form in {_word, stem(_word)}:
        _OPPOSITE_STEMS[_form] = _OPPOSITE_STEMS.get(_form, frozenset()) | frozenset(map(stem, _others))


def _degrees(a: Facts, b: Facts) -> bool:
    return bool((a.degrees ^ b.degrees) - _PRAISE) or bool(a.degrees - b.degrees and b.degrees - a.degrees)


_PRAISE = frozenset(("good+", "good++"))  # "the best way to" and "how to" ask the same


def _asks(a: Facts, b: Facts) -> bool:
    """Both say what they ask for (who, when, how many) or whose it is, and not the same."""
    return bool(a.asks and b.asks and a.asks != b.asks) or bool(a.owners and b.owners and a.owners.isdisjoint(b.owners))


def _direction(a: Facts, b: Facts) -> bool:
    """From A to B against from B to A; who did it to whom; what is compared with what.

    Names change places in many a paraphrase too (active and passive). So all but an outright "from" and "to" counts
    only between prompts of nearly the same words.
    """
    if _turned(a.sources, b.sources, a.goals, b.goals):
        return True
    if len(a.content ^ b.content) > _NEARLY_SAME:
        return False
    if _turned(a.sources | a.starts, b.sources | b.starts, a.goals, b.goals):
        return True
    shared = set(a.order) & set(b.order)
    in_a, in_b = [w for w in a.order if w in shared], [w for w in b.order if w in shared]
    return in_a != in_b and not (a.commutative and b.commutative)


_NEARLY_SAME = 3  # content words that only one of the two has


def _turned(from_a: frozenset[str], from_b: frozenset[str], to_a: frozenset[str], to_b: frozenset[str]) -> bool:
    return bool(from_a & to_b - from_b or to_a & from_b - to_b or from_b & to_a - from_a or to_b & from_a - to_a)


# The most telling reason first: it is what an operator sees counted.
GUARDS: tuple[tuple[str, Guard], ...] = (
    ("numbers", _numbers),
    ("negation", _negation),
    ("units", _units),
    ("dates", _dates),
    ("language", _language),
    ("code", _code),
    ("asks", _asks),
    ("degrees", _degrees),
    ("opposites", _opposites),
    ("names", _names),
    ("direction", _direction),
)


def veto(new: Facts, cached: Facts) -> str | None:
    """Why the answer to `cached` must not be given to `new`; None if no guard objects."""
    if new.text == cached.text and new.code == cached.code:
        return None
    return next((name for name, objects in GUARDS if objects(new, cached)), None)
