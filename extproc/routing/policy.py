"""What the operator and the client make of a score: rules that decide before it, and the scores where tiers begin.

In: `routing` of gateway.yaml and a team's own, the prices of the tiers. Out: `Policy`, compiled once into the catalog,
and from it the thresholds for a request's wish. Pure; called by `extproc.catalog` and `extproc.routing.classify`.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import re2

from extproc.embedding.limits import bounded
from extproc.records import Wish
from extproc.routing.conversation import Conversation
from extproc.settings.routing import Rule, Tier

# A person's tiers: where, on prompts held out of training, the fewest were put in another tier than a person would.
SIMPLE_BELOW = 0.36
HARD_FROM = 0.74


class CompiledRule(msgspec.Struct, frozen=True):
    """A rule, its words in lower case and its expression compiled."""

    rule: Rule
    name: str
    words: tuple[str, ...]
    pattern: Any  # re2's compiled expression, or None

    def holds(self, seen: Conversation) -> bool:
        """Whether every condition that is given holds."""
        when = self.rule.when
        return (
            (when.min_chars is None or seen.chars >= when.min_chars)
            and (when.max_chars is None or seen.chars <= when.max_chars)
            and when.has_tools in (None, seen.has_tools)
            and when.has_images in (None, seen.has_images)
            and (when.has_code is None or when.has_code == seen.has_code)
            and (not self.words or _any_word(self.words, seen.text))
            and (self.pattern is None or self.pattern.search(_searchable(seen.text)) is not None)
        )


class Policy(msgspec.Struct, frozen=True):
    """How a team's requests for `auto` become a tier."""

    rules: tuple[CompiledRule, ...] = ()
    save_share: float | None = None  # of the cost of always using the hard tier
    costs: tuple[float, float, float] = (0.06, 0.06, 1.0)  # of a token in each tier, the hard one's being 1

    def ruled(self, seen: Conversation) -> CompiledRule | None:
        """The first rule that holds."""
        return next((rule for rule in self.rules if rule.holds(seen)), None)

    @property
    def most_saved(self) -> float:
        """The share of the cost that is saved when nothing goes to the hard tier."""
        return 1 - min(self.costs)

    def thresholds(self, wish: Wish, quantiles: Sequence[float]) -> tuple[float, float]:
        """The scores from which a request is medium, and hard. `quantiles`: of scores on ordinary traffic, 0 to 100 %.

        `cost` makes half of what was hard medium and half of what was medium simple; `quality` the other way round.
        """
        simple, hard = SIMPLE_BELOW, HARD_FROM
        if self.save_share is not None:
            simple, hard = self._saving(quantiles)
        if wish == "balanced":
            return simple, hard
        below, beside = _share_below(simple, quantiles), _share_below(hard, quantiles)
        if wish == "cost":
            below, beside = (below + beside) / 2, (beside + 1) / 2
        else:
            below, beside = below / 2, (below + beside) / 2
        return _score_at(below, quantiles), _score_at(beside, quantiles)

    def _saving(self, quantiles: Sequence[float]) -> tuple[float, float]:
        """The lowest thresholds that save what was asked for: first fewer hard ones, then fewer medium ones."""
        assert self.save_share is not None  # noqa: S101 - the caller looked
        simple_cost, medium_cost, hard_cost = self.costs
        simple = _share_below(SIMPLE_BELOW, quantiles)
        for percent in range(101):
            below, beside = min(simple, percent / 100), percent / 100
            if 1 - (below * simple_cost + (beside - below) * medium_cost + (1 - beside) * hard_cost) >= self.save_share:
                return _score_at(below, quantiles), _score_at(beside, quantiles)
        for percent in range(101):
            if 1 - (percent * simple_cost + (100 - percent) * medium_cost) / 100 >= self.save_share:
                return max(SIMPLE_BELOW, _score_at(percent / 100, quantiles)), 1.01
        return 1.01, 1.01


def compile_rules(rules: Sequence[Rule]) -> tuple[CompiledRule, ...]:
    """The rules, ready to be asked."""
    return tuple(
        CompiledRule(
            rule,
            rule.name or f"rule_{at}",
            tuple(word.lower() for word in rule.when.contains),
            re2.compile(rule.when.regex) if rule.when.regex else None,
        )
        for at, rule in enumerate(rules, start=1)
    )


def tier_of(score: float, thresholds: tuple[float, float]) -> Tier:
    """The tier of a score."""
    return "simple" if score < thresholds[0] else "medium" if score < thresholds[1] else "hard"


def _any_word(words: tuple[str, ...], text: str) -> bool:
    lower = bounded(text).lower()
    return any(word in lower for word in words)


def _searchable(text: str) -> str:
    """What RE2 can read: bounded, without halves of surrogate pairs."""
    return bounded(text).encode("utf-8", "replace").decode()


def _share_below(score: float, quantiles: Sequence[float]) -> float:
    return sum(value < score for value in quantiles) / len(quantiles)


def _score_at(share: float, quantiles: Sequence[float]) -> float:
    return 1.01 if share >= 1 else quantiles[min(100, round(100 * share))]
