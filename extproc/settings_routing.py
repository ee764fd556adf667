"""The part of gateway.yaml that says how `model: auto` chooses: tiers, rules, the target, teams' own.

In: what pydantic hands over. Out: frozen, checked types, which `extproc.settings` puts in their place. A rule's regular
expression is RE2's, which takes time linear in the text whatever is written in it; it is searched in the bounded text.
"""

from typing import Annotated, Any, Literal, Self

import re2
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Tier = Literal["simple", "medium", "hard"]
Auto = dict[Tier, list[str]]

MAX_RULES = 100


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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


class When(_Model):
    """Conditions of a rule; all that are given must hold. Texts are those of the last user turn."""

    contains: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200)]], BeforeValidator(_listed), Field(max_length=100)
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
    def _not_empty(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("needs at least one condition")
        return self


class Rule(_Model):
    """The first rule whose conditions hold decides the tier, before the classifier is asked."""

    when: When
    tier: Tier
    name: str | None = Field(
        default=None, pattern=r"^[a-z][a-z0-9_]{0,40}$", description="given as the reason; default: rule_<its place>"
    )


class SaveTarget(_Model):
    """How much of the input cost of always using the hard tier `auto` should save on ordinary traffic."""

    save_pct: float = Field(gt=0, lt=100)


class TeamRouting(_Model):
    """What a team has of its own; a tier that is not named here is everyone's."""

    auto: Auto = {}
    target: SaveTarget | None = None
