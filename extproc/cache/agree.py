"""Do two answers say the same? The check of a semantic hit: the kept answer against the provider's own. Pure.

In: two answers as text, and how to compare them. Out: a verdict that errs on the side of "no". Long answers to one
question are never worded twice alike, so they are held against each other by their meaning as a whole; short ones are
held to their numbers, names and negations too. A threshold of taste, not learnt: there is no set of answer pairs to
learn it from.
"""

from typing import TYPE_CHECKING, Any

import msgspec

from extproc.cache.facts import facts
from extproc.cache.guards import veto

if TYPE_CHECKING:
    from extproc.cache.cascade import Embedder

_ALIKE = 0.85  # cosine of static vectors
_SHORT_WORDS = 30


def agree(one: str, other: str, embedder: "Embedder") -> bool:
    """Whether one answer could stand for the other."""
    a, b = facts(one[:2000]), facts(other[:2000])
    if a.text == b.text:
        return True
    if min(len(a.words), len(b.words)) <= _SHORT_WORDS and veto(a, b) is not None:
        return False
    return float(embedder.embed(one).dot(embedder.embed(other))) >= _ALIKE


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Completion(msgspec.Struct):
    choices: list[_Choice]


def text_of(answer: bytes) -> str | None:
    """The text of a kept completion; None if it has none, or calls tools."""
    try:
        completion: Any = msgspec.json.decode(answer, type=_Completion)
    except msgspec.MsgspecError:
        return None
    return completion.choices[0].message.content if completion.choices else None
