"""What an exchange costs, and what a model costs where the operator did not say.

    usage + price      -> cost_nano_usd   integer nano-USD (1e-9 USD), or None: a price that was needed is unknown
    format + name      -> PriceTables     the list price: of an imported table, or the one shipped, `data/prices.json`
    gateway.yaml price -> price_from_usd  what `settings.with_list_prices` made of the operator's parts and the table's

Called by the answer and the settlement (cost), by the catalog (prices), by `control.prices` (tables). Arithmetic is in
integers; prices are pico-USD per token, and a cost is rounded up to a whole nano-USD once, at the end, so that what is
counted as spent is never below what is billed.
"""

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec

from extproc.records import LongContextPrice, Price, ProviderFormat, TokenPrice, Usage

PICO_PER_USD_PER_MILLION = 1_000_000
_PARTS = ("input", "cached_input", "cache_write", "cache_write_long", "output", "reasoning")


def cost_nano_usd(usage: Usage, price: Price) -> int | None:
    """Cost in nano-USD, rounded up; None when a part the usage needs has no known price.

    Every token is billed once: cached and cache-written tokens are taken out of the input, reasoning out of the output.
    Over a long-context limit all of the request, output too, has that tier's price (OpenAI above 272k, Google above
    200k, both on their pricing pages), and a tier that lacks a part does not borrow the base price's.
    """
    rate = _rate(price, usage.input_tokens)
    cached = min(usage.cached_tokens, usage.input_tokens)
    written = min(usage.cache_write_tokens, usage.input_tokens - cached)
    written_long = min(usage.cache_write_long_tokens, written)
    reasoning = min(usage.reasoning_tokens, usage.output_tokens)
    billed = (
        usage.input_tokens - cached - written,
        cached,
        written - written_long,
        written_long,
        usage.output_tokens - reasoning,
        reasoning,
    )
    pico = 0
    for tokens, per_token in zip(billed, _parts(rate), strict=True):
        if tokens > 0 and per_token is None:
            return None
        pico += max(0, tokens) * (per_token or 0)
    return -(-pico // 1000)


def ceiling_rates(price: Price, input_tokens: int) -> tuple[int | None, int | None]:
    """Pico-USD per token, of input that nothing is cached of, and of output, the dearer kind; None where not known."""
    rate = _rate(price, input_tokens)
    if rate.output is None or rate.reasoning is None:
        return rate.input, rate.output
    return rate.input, max(rate.output, rate.reasoning)


@lru_cache(maxsize=4096)
def rates(price: Price) -> str:
    """A price for envoy/gateway_fields.lua: its tiers with `;` between, each the input tokens above which it holds and
    then pico-USD per token in the order of `_parts`, `-` where not known."""
    tiers = [(0, price), *((tier.above_input_tokens, tier) for tier in price.long_context or ())]
    return ";".join(
        " ".join([str(over), *("-" if rate is None else str(rate) for rate in _parts(tier))]) for over, tier in tiers
    )


def _parts(rate: TokenPrice) -> tuple[int | None, ...]:
    """What a token costs: of fresh input, from the cache, written into it, for longer, of output, of reasoning."""
    return (
        rate.input,
        rate.input if rate.cached_input is None else rate.cached_input,
        rate.cache_write,
        rate.cache_write_long,
        rate.output,
        rate.output if rate.reasoning is None else rate.reasoning,
    )


def _rate(price: Price, input_tokens: int) -> TokenPrice:
    if not price.long_context:
        return price
    over = [tier for tier in price.long_context if input_tokens > tier.above_input_tokens]
    return max(over, key=lambda tier: tier.above_input_tokens, default=price)


def price_from_usd(usd: Mapping[str, Any]) -> Price:
    """A price in USD per 1M tokens, as in gateway.yaml and in a table, to pico-USD per token."""
    tiers = usd.get("long_context")
    return Price(
        **_pico(usd),
        long_context=None
        if tiers is None
        else tuple(LongContextPrice(**_pico(tier), above_input_tokens=tier["above_input_tokens"]) for tier in tiers),
    )


def _pico(usd: Mapping[str, Any]) -> dict[str, int]:
    known = {part: usd[part] for part in _PARTS if usd.get(part) is not None}
    return {part: round(value * PICO_PER_USD_PER_MILLION) for part, value in known.items()}


_Usd = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]


class UsdPrices(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """USD per 1M tokens, the same parts as gateway.yaml's `price`."""

    input: _Usd | None = None
    cached_input: _Usd | None = None
    cache_write: _Usd | None = None
    cache_write_long: _Usd | None = None
    output: _Usd | None = None
    reasoning: _Usd | None = None


class UsdLongContext(UsdPrices, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A long-context tier."""

    above_input_tokens: Annotated[int, msgspec.Meta(gt=0)] = 1


class UsdPrice(UsdPrices, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A model's whole price."""

    long_context: tuple[UsdLongContext, ...] = ()


class ListedModel(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A model in a table."""

    price: UsdPrice
    context: Annotated[int, msgspec.Meta(gt=0)] | None = None  # input tokens it takes
    max_output: Annotated[int, msgspec.Meta(gt=0)] | None = None
    source: str | None = None  # the page the price is from
    valid_until: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\d$")] | None = None  # last day, if announced
    note: str | None = None


class PriceTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """List prices at a date, by wire format (openai, anthropic, google) and the provider's name of the model."""

    as_of: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\d$")]
    source: str
    models: dict[str, dict[str, ListedModel]]

    def find(self, wire_format: ProviderFormat, upstream_name: str) -> ListedModel | None:
        """The model of that name, else, for a dated snapshot or `-latest`, the model it is one of. None: not listed."""
        if wire_format == "bedrock" and (model := _GLOBAL_PROFILE.fullmatch(upstream_name)):
            wire_format, upstream_name = "anthropic", model["name"]
        listed = self.models.get("openai" if wire_format == "azure" else wire_format, {})
        name = upstream_name.removeprefix("models/")
        return listed.get(name) or listed.get(_SNAPSHOT.sub("", name))


# OpenAI: gpt-4o-mini-2024-07-18; Anthropic: claude-haiku-4-5-20251001, -latest; Google: gemini-2.5-pro-001.
_SNAPSHOT = re.compile(r"-(\d{4}-\d\d-\d\d|\d{8}|\d{3}|latest)$")
# Bedrock's global profiles cost what Anthropic takes; those of a region or a continent cost more, for some models.
_GLOBAL_PROFILE = re.compile(r"(?:arn:.*/)?global\.anthropic\.(?P<name>claude.*?)(?:-v\d+)?(?::\w+)*")


class PriceTableError(Exception):
    """A price table cannot be used. `problems`: one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class PriceTables(msgspec.Struct, frozen=True):
    """The tables in force: one that was imported (and what to call it), before the one shipped."""

    imported: PriceTable | None = None
    imported_from: str = ""

    def find(self, wire_format: str, upstream_name: str) -> tuple[ListedModel, str] | None:
        """A model as listed, and where. The first table that has it decides all of its price: parts are not mixed."""
        for table, name in ((self.imported, self.imported_from), (default_table(), "built-in table")):
            listed = table.find(cast(ProviderFormat, wire_format), upstream_name) if table else None
            if table and listed:
                until = f", announced until {listed.valid_until}" if listed.valid_until else ""
                return listed, f"{name} as of {table.as_of}{until}"
        return None


def price_tables(path: Path | None) -> PriceTables:
    """The tables, with the one at `path` if any. Raises PriceTableError."""
    return PriceTables() if path is None else PriceTables(load_table(path), str(path))


@cache
def default_table() -> PriceTable:
    """The table shipped with the package. Raises PriceTableError if the installation is broken."""
    return _decode((resources.files("extproc") / "data" / "prices.json").read_bytes(), "prices.json")


def load_table(path: Path) -> PriceTable:
    """A table written by `dump_table`. Raises PriceTableError."""
    try:
        return _decode(path.read_bytes(), str(path))
    except OSError as error:
        raise PriceTableError([f"{path}: cannot be read: {error.strerror}"]) from None


def dump_table(table: PriceTable) -> bytes:
    """The table as JSON text, one model after another, for `load_table` and for reading."""
    return msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n"


def _decode(data: bytes, name: str) -> PriceTable:
    try:
        return msgspec.json.decode(data, type=PriceTable)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PriceTableError([f"{name}: not a table of `gateway prices import`: {error}"]) from None
