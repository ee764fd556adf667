"""Models a client can name, their prices, and which may stand in for one another."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from extproc.records import Feature
from extproc.settings.fields import NAME, Section, UsdPerMillion


class TokenPrices(Section):
    """USD per 1M tokens. A missing part is the list price's, if the model is known, else unknown, never 0."""

    input: UsdPerMillion | None = None
    cached_input: UsdPerMillion | None = Field(default=None, description="unknown: billed as input")
    cache_write: UsdPerMillion | None = None
    cache_write_long: UsdPerMillion | None = Field(default=None, description="into the longer-lived cache, such as 1 h")
    output: UsdPerMillion | None = None
    reasoning: UsdPerMillion | None = Field(default=None, description="unknown: billed as output")


class LongContext(TokenPrices):
    """Prices of a whole request whose input is larger than this."""

    above_input_tokens: int = Field(gt=0)


class ModelPrice(TokenPrices):
    """A model's price; `long_context: []` says that there are no tiers although the list price has them."""

    long_context: list[LongContext] | None = None


class Model(Section):
    """A model a client can name, and what serves it."""

    name: str = Field(pattern=NAME)
    provider: str
    upstream_name: str | None = Field(default=None, description="the provider's name of it; default: name")
    tier: Literal["simple", "medium", "hard"] | None = None
    price: ModelPrice = ModelPrice()
    context: int | None = Field(default=None, gt=0)
    max_output: int | None = Field(default=None, gt=0)
    features: list[Feature] = Field(
        default=["vision", "tools", "json_schema"], description="what it can do; requests that need more pass it over"
    )


class Prices(Section):
    """List prices for models whose `price` here leaves something open."""

    file: Path | None = Field(default=None, description="a table made by `gateway prices import`, before the built-in")


class Equivalents(Section):
    """Models that may stand in for one another, in failover order."""

    models: list[str] = Field(min_length=2)
    score: float = Field(default=1.0, ge=0, le=1)
    rewrite: dict[str, Annotated[str, Field(min_length=1, max_length=20_000)]] = Field(
        default={}, description="by model: instructions put before a request's own when it stands in for another here"
    )
