"""How a request finds its model: tiers of `model: auto`, rules, a target, attempts, deadlines, circuits.

A rule's regular expression is RE2's, which takes time linear in the text whatever is written in it; it is searched in
the bounded text.
"""

from typing import Annotated, Any, Literal, Self

import re2
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from extproc.settings.fields import Duration, Section

Tier = Literal["simple", "medium", "hard"]
Auto = dict[Tier, list[str]]

MAX_RULES = 100


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _linear_regex(value: str) -> str:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        re2.compile(value, options)
    except re2.error as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"not a regular expression that RE2 can run: {reason}") from None
    return value


class When(Section):
    """Conditions of a rule; all that are given must hold. Texts are those of the last user turn."""

    contains: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200)]],
        BeforeValidator(_listed, json_schema_input_type=str | list[str]),
        Field(max_length=100),
    ] = Field(default=[], description="any of these, in any case of letters")
    regex: Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_linear_regex)] | None = Field(
        default=None, description="RE2 syntax; (?i) ignores case"
    )
    min_chars: int | None = Field(default=None, ge=0, description="characters of the whole conversation, at least")
    max_chars: int | None = Field(default=None, ge=0, description="characters of the whole conversation, at most")
    has_tools: bool | None = None
    has_code: bool | None = None
    has_images: bool | None = None

    @model_validator(mode="after")
    def _can_hold(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("needs at least one condition")
        if self.min_chars is not None and self.max_chars is not None and self.min_chars > self.max_chars:
            raise ValueError("min_chars: is more than max_chars")
        return self


class Rule(Section):
    """The first rule whose conditions hold decides the tier, before the classifier is asked."""

    when: When
    tier: Tier
    name: str | None = Field(
        default=None, pattern=r"^[a-z][a-z0-9_]{0,40}$", description="given as the reason; default: rule_<its place>"
    )


class SaveTarget(Section):
    """How much of the input cost of always using the hard tier `auto` should save on ordinary traffic."""

    save_pct: float = Field(gt=0, lt=100)


class TeamRouting(Section):
    """What a team has of its own; a tier that is not named here is everyone's."""

    auto: Auto = Field(default={})
    target: SaveTarget | None = None


class Deadlines(Section):
    """`first_byte_timeout: auto`: `factor` times the model's p99 of the last five minutes, between `min` and `max`;
    `cold` (streams) and `cold_whole` (all else) as long as there were too few answers to know it."""

    min: Duration = 1.0
    max: Duration = 120.0
    factor: float = Field(default=3.0, ge=1)
    cold: Duration = 30.0
    cold_whole: Duration = 120.0


class Routing(Section):
    """`model: auto` by tier, and how attempts are made. `attempts` counts all of them: 1 is no failover."""

    auto: Auto = Field(default={})
    rules: list[Rule] = Field(default=[], max_length=MAX_RULES)
    target: SaveTarget | None = None
    attempts: int = Field(default=3, ge=1, le=8)
    first_byte_timeout: Literal["auto"] | Duration = "auto"
    deadlines: Deadlines = Deadlines()
    hedge: bool = Field(
        default=False, description="attempts race after a fixed deadline too, and what lost races may cost is billed"
    )


class Breaker(Section):
    """When a provider or model is left alone: after `consecutive_failures`, or from `error_rate` of at least
    `min_requests` in `window` on; for `open_for`, then `probe_share` of requests try whether it is back."""

    window: Duration = 60.0
    min_requests: int = Field(default=10, ge=1)
    error_rate: float = Field(default=0.5, gt=0, le=1)
    consecutive_failures: int = Field(default=5, ge=1)
    open_for: Duration = 15.0
    probe_share: float = Field(default=0.05, gt=0, le=1)
    max_retry_after: Duration = Field(default=60.0, description="a 429's Retry-After counts for no longer than this")
