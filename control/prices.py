"""A newer price table from LiteLLM's public file, for `gateway prices import FILE`.

In: `model_prices_and_context_window.json` as LiteLLM publishes it (USD per token, one object per model). Out: a
`PriceTable` of the chat models of OpenAI, Anthropic and Google in it. Nothing else of the file is used: other providers
are priced in gateway.yaml.
"""

import re
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from extproc.pricing import ListedModel, PriceTable, PriceTableError, UsdLongContext, UsdPrice

_FORMAT = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}
_PART = {
    "input_cost_per_token": "input",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_long",
    "cache_creation_input_token_cost_above_12hr": "cache_write_long",
    "output_cost_per_token": "output",
    "output_cost_per_reasoning_token": "reasoning",
}
_TIER = re.compile(r"_above_(\d{1,5})k_tokens$")
# No model costs 1,000 USD per 1M tokens; most would, had a file prices per 1,000 tokens, or per million.
_MOST_USD_PER_TOKEN = 0.001
SOURCE = "LiteLLM, model_prices_and_context_window.json (MIT)"


def import_litellm(path: Path, as_of: str, source: str = SOURCE) -> PriceTable:
    """Convert the file at `path`; `as_of` (YYYY-MM-DD) is its date, models retired by then are left out.

    Left out too: fine-tuned models, models that speak (text prices alone would be wrong), and models listed as free of
    charge, since LiteLLM writes 0 for what it does not know.
    Raises PriceTableError with every problem found.
    """
    if not _is_date(as_of):
        raise PriceTableError([f"{as_of!r} is not a date: write YYYY-MM-DD"])
    problems: list[str] = []
    models: dict[str, dict[str, ListedModel]] = {name: {} for name in _FORMAT.values()}
    entries = _read(path)
    if not any(isinstance(entry, dict) and "litellm_provider" in entry for entry in entries.values()):
        raise PriceTableError([f"{path}: is not LiteLLM's price file: no entry of it has a litellm_provider"])
    for name, entry in entries.items():
        if not isinstance(entry, dict):
            problems.append(f"{name}: must be an object")
        elif _wanted(name, entry, as_of):
            listed = _listed(name, entry, problems)
            short = name.rpartition("/")[2]
            if listed and listed.price.input and listed.price.output:
                models[_FORMAT[entry["litellm_provider"]]][short] = listed
    if not problems and not any(models.values()):
        problems.append(f"{path}: has no chat model of OpenAI, Anthropic or Google with a price")
    if problems:
        raise PriceTableError(problems)
    return PriceTable(as_of=as_of, source=source, models={form: dict(sorted(m.items())) for form, m in models.items()})


def _is_date(text: str) -> bool:
    try:
        return bool(re.fullmatch(r"\d{4}-\d\d-\d\d", text)) and bool(date.fromisoformat(text))
    except ValueError:
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise PriceTableError([f"{path}: cannot be read: {error.strerror}"]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PriceTableError([f"{path}: not LiteLLM's price file: {error}"]) from None


def _wanted(name: str, entry: dict[str, Any], as_of: str) -> bool:
    retired = entry.get("deprecation_date")
    return (
        isinstance(provider := entry.get("litellm_provider"), str)
        and provider in _FORMAT
        and entry.get("mode") == "chat"
        and not name.startswith("ft:")
        and "output_cost_per_audio_token" not in entry
        and not (isinstance(retired, str) and retired <= as_of)
    )


def _listed(name: str, entry: dict[str, Any], problems: list[str]) -> ListedModel | None:
    """The entry as a model of ours; None after adding to `problems`."""
    before = len(problems)
    tiers: dict[int, dict[str, float]] = {0: {}}
    for key, value in entry.items():
        tier = _TIER.search(key)
        part = _PART.get(key[: tier.start()] if tier else key)
        if part is None or value is None:
            continue
        usd = _usd_per_million(value)
        if usd is None:
            problems.append(f"{name}.{key}: must be a price in USD per token, 0 to {_MOST_USD_PER_TOKEN:g}")
            continue
        tiers.setdefault(int(tier[1]) * 1000 if tier else 0, {})[part] = usd
    sizes = [_tokens(name, entry, key, problems) for key in ("max_input_tokens", "max_output_tokens")]
    if len(problems) > before:
        return None
    base = tiers.pop(0)
    long_context = tuple(UsdLongContext(**parts, above_input_tokens=above) for above, parts in sorted(tiers.items()))
    source = entry.get("source")
    return ListedModel(
        price=UsdPrice(**base, long_context=long_context),
        context=sizes[0],
        max_output=sizes[1],
        source=source if isinstance(source, str) else None,
    )


def _usd_per_million(value: object) -> float | None:
    """USD per token, written as 1.5e-07, to USD per 1M tokens, exactly 0.15."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_USD_PER_TOKEN:
        return None
    return float(Decimal(repr(value)) * 1_000_000)


def _tokens(name: str, entry: dict[str, Any], key: str, problems: list[str]) -> int | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        problems.append(f"{name}.{key}: must be a number of tokens")
        return None
    return value
