"""How hard a request looks, for `model: auto`: a rule of the configuration, else the trained model. Pure.

In: the client's request, its team's policy, its wish. Out: `Complexity`, which explains itself. Called by
`extproc.pipeline`, once a request, for `auto` only. The same request gives the same answer on every machine.
"""

import math
from typing import TYPE_CHECKING

import msgspec

from extproc.records import ChatRequest, Wish
from extproc.routing.conversation import Conversation, conversation
from extproc.routing.policy import Policy, tier_of
from extproc.settings.routing import Tier

if TYPE_CHECKING:
    from extproc.routing.model import Reading, RoutingModel

_RULED_SCORE = {"simple": 0.0, "medium": 0.5, "hard": 1.0}
_SHORT_CHARS = 40  # a last turn such as "and in Rust?" is read together with the one before it
_COURTESY = -3.0  # logits; below are "thanks", "ok" and the like
_INSTRUCTIONS_CHARS = 1000
_LONG_CHARS = 16_000
_NUDGE = 0.25  # logits; set by hand: no public data says what tools and instructions add


class Complexity(msgspec.Struct, frozen=True):
    """How hard a request looks, and why."""

    tier: Tier
    score: float  # 0 (trivial) to 1 (hard)
    reason: str  # the name of what weighed most, such as small_talk, or of the rule that decided

    def __str__(self) -> str:
        """As the parameters of `x-gateway-routing`."""
        return f"tier={self.tier}; score={self.score:.2f}; reason={self.reason}"


def classify(chat: ChatRequest, policy: Policy, wish: Wish = "balanced") -> Complexity:
    """The complexity of the conversation in `chat`."""
    seen = conversation(chat)
    rule = policy.ruled(seen)
    if rule is not None:
        return Complexity(rule.rule.tier, _RULED_SCORE[rule.rule.tier], rule.name)
    model = trained()
    thresholds = policy.thresholds(wish, model.quantiles)
    reading = _read(model, seen)
    around = _around(seen)
    score = _squashed(reading.logit + sum(around.values()))
    tier = tier_of(score, thresholds)
    moved = around and tier != tier_of(_squashed(reading.logit), thresholds)
    return Complexity(tier, score, max(around, key=lambda name: around[name]) if moved else reading.reason)


def trained() -> "RoutingModel":
    """The model that comes with the gateway; the first call loads it, and numpy."""
    from extproc.routing.model import RoutingModel  # noqa: PLC0415 - a tenth of a start, spared where nobody asks for `auto`

    return RoutingModel.load()


def _read(model: "RoutingModel", seen: Conversation) -> "Reading":
    """The last user turn; a short one that is no courtesy says too little without the turn before it."""
    reading = model.read(seen.text, len(seen.text))
    if not seen.before or len(seen.text) > _SHORT_CHARS or reading.logit < _COURTESY:
        return reading
    both = f"{seen.before}\n{seen.text}"
    return model.read(both, len(both))


def _around(seen: Conversation) -> dict[str, float]:
    """What stands around the last turn and adds to the score, in logits."""
    added = {
        "tools": _NUDGE * seen.has_tools,
        "images": _NUDGE * seen.has_images,
        "instructions": _NUDGE * (seen.system_chars > _INSTRUCTIONS_CHARS),
        "long_context": _NUDGE * min(4.0, math.log2(seen.chars / _LONG_CHARS)) if seen.chars > _LONG_CHARS else 0.0,
    }
    return {name: value for name, value in added.items() if value}


def _squashed(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))
