"""`gateway prices`: LiteLLM's public price file made into a table of ours, and what the prices in force are.

In: LiteLLM's `model_prices_and_context_window.json`; or a configuration. Out: a table file for `prices.file`; or a line
for each model: its price in USD per 1M tokens and where it is from.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from control.prices import import_litellm
from extproc.pricing import PriceTable, PriceTables, default_table, dump_table
from extproc.process.files import replace_file
from extproc.settings import Settings

_PARTS = ("input", "cached_input", "cache_write", "output")
_READABLE = 0o644  # list prices are no secret


class Priced(msgspec.Struct, frozen=True):
    """A model and what it costs, USD per 1M tokens; None is not known. `source`: gateway.yaml, a table, or unknown."""

    name: str
    upstream_name: str
    input: float | None
    cached_input: float | None
    cache_write: float | None
    output: float | None
    source: str


def import_file(file: Path, output: Path, as_of: str) -> str:
    """Write the table of `file` to `output`; returns what to tell. Raises PriceTableError, OSError."""
    table = import_litellm(file, as_of)
    if output.exists() and not output.is_file():  # a pipe or a device, which nothing must take the place of
        output.write_bytes(dump_table(table))
    else:
        replace_file(output.resolve(), dump_table(table), _READABLE)  # what a link leads to, not the link
    counts = ", ".join(f"{len(models)} {name}" for name, models in table.models.items())
    differing = sum(1 for _ in _differing(table))
    return (
        f"{output}: {counts} models as of {as_of}; {differing} have another price than the built-in table"
        f" of {default_table().as_of}\nuse it with    prices: {{file: {output}}}"
    )


def _differing(table: PriceTable) -> Iterator[str]:
    for wire_format, models in table.models.items():
        known = default_table().models.get(wire_format, {})
        yield from (name for name, model in models.items() if name in known and model.price != known[name].price)


def in_force(unpriced: Settings, priced: Settings, tables: PriceTables) -> list[Priced]:
    """Every configured model. `unpriced`: as gateway.yaml has it; `priced`: the same with list prices filled in."""
    found = []
    for own, model in zip(unpriced.models, priced.models, strict=True):
        upstream_name = model.upstream_name or model.name
        listed = tables.find(priced.providers[model.provider].wire_format, upstream_name)
        said = any(value is not None for value in own.price.model_dump().values())
        sources = [*(["gateway.yaml"] if said else []), *([listed[1]] if listed else [])]
        known = {part: getattr(model.price, part) for part in _PARTS}
        complete = known["input"] is not None and known["output"] is not None
        source = ", then ".join(sources) + ("" if complete else "; not all is known" if sources else "unknown")
        found.append(Priced(model.name, upstream_name, **known, source=source))
    return found


def as_text(models: list[Priced]) -> str:
    """For people."""
    rows: list[tuple[str, ...]] = [("model", "upstream name", "input", "cached", "write", "output", "source")]
    rows += [(m.name, m.upstream_name, *(_usd(getattr(m, part)) for part in _PARTS), m.source) for m in models]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "USD per 1M tokens\n" + "\n".join(lines)


def _usd(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"
