"""How hard a request looks, for `model: auto`. Pure.

In: the client's request. Out: `Complexity`. Called by `extproc.pipeline`, once a request, for `auto` only.
"""

from typing import Literal

import msgspec

from extproc.chat import text_chars
from extproc.records import ChatRequest

Tier = Literal["simple", "medium", "hard"]

# Characters of all message texts. Untrained, length holds its own against published learnt routers.
SIMPLE_BELOW_CHARS = 400
MEDIUM_BELOW_CHARS = 3000


class Complexity(msgspec.Struct, frozen=True):
    """How hard a request looks, and why."""

    tier: Tier
    score: float  # 0 (trivial) to 1 (hard)
    reason: str  # the name of what weighed most, such as short_text


def classify(chat: ChatRequest) -> Complexity:
    """The complexity of the conversation in `chat`. Deterministic."""
    chars = text_chars(chat)
    if chars < SIMPLE_BELOW_CHARS:
        return Complexity("simple", _score(chars), "short_text")
    if chars < MEDIUM_BELOW_CHARS:
        return Complexity("medium", _score(chars), "medium_text")
    return Complexity("hard", _score(chars), "long_text")


def _score(chars: int) -> float:
    """Rises with the length, .5 at a thousand characters."""
    return chars / (chars + 1000)
