"""Token usage between OpenAI's object and `records.Usage`.

In: a `usage` object as OpenAI and its many followers send it, or a Usage. Out: the other one. Who calls it: the openai
adapter reads, the translating adapters and `fold` write; the settler reads what Envoy saw of an answer it passed alone.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from extproc.records import Usage

# Where `from_openai` looks.
PATHS: tuple[tuple[str, ...], ...] = (
    ("prompt_tokens",),
    ("completion_tokens",),
    ("total_tokens",),
    ("reasoning_tokens",),
    ("prompt_cache_hit_tokens",),
    ("cache_read_input_tokens",),
    ("cache_creation_input_tokens",),
    ("prompt_tokens_details", "cached_tokens"),
    ("prompt_tokens_details", "cache_write_tokens"),
    ("prompt_tokens_details", "cache_creation_tokens"),
    ("prompt_tokens_details", "cache_write_long_tokens"),
    ("completion_tokens_details", "reasoning_tokens"),
)

_BY_NAME = {".".join(path): path for path in PATHS}
MOST_TOKENS = 10**12  # a provider's number beyond it is no count, and would not fit the journal
COUNTED = ("prompt_tokens", "completion_tokens")  # without both there is no usage


def from_openai(usage: dict[str, Any]) -> Usage:
    """Usage as billed. Details have moved about: each is looked for under every name it is known to have.

    Source: platform.openai.com/docs/api-reference/chat/object; api-docs.deepseek.com (prompt_cache_hit_tokens);
    openrouter.ai/docs/use-cases/usage-accounting (cache_write_tokens); LiteLLM's cache_read_input_tokens.
    """
    prompt = _details(usage, "prompt_tokens_details")
    completion = _details(usage, "completion_tokens_details")
    input_tokens, output_tokens = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    reasoning = _first(completion.get("reasoning_tokens"), usage.get("reasoning_tokens"))
    if reasoning and input_tokens + output_tokens + reasoning == count(usage.get("total_tokens")):
        output_tokens += reasoning  # xAI and Google's OpenAI surface count reasoning beside completion_tokens
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=_first(
            prompt.get("cached_tokens"), usage.get("prompt_cache_hit_tokens"), usage.get("cache_read_input_tokens")
        ),
        cache_write_tokens=_first(
            prompt.get("cache_write_tokens"),
            prompt.get("cache_creation_tokens"),
            usage.get("cache_creation_input_tokens"),
        ),
        reasoning_tokens=reasoning,
        cache_write_long_tokens=count(prompt.get("cache_write_long_tokens")),  # as `to_openai` calls them
    )


def from_envoy(counts: Mapping[str, float], written: str) -> Usage | None:
    """What Envoy read of a usage object, by the same reading: a stream costs what the same answer does whole.

    `counts`: by dotted path; `written`: the object as the provider wrote it, or "". None: there was no usage.
    """
    found: dict[str, Any] = {}
    for name in counts.keys() & _BY_NAME.keys():
        *outer, last = _BY_NAME[name]
        into = found.setdefault(outer[0], {}) if outer else found
        into[last] = int(counts[name]) if math.isfinite(counts[name]) else 0
    if written:
        with suppress(msgspec.DecodeError):
            found |= msgspec.json.decode(written, type=dict[str, Any])
    return from_openai(found) if all(name in found for name in COUNTED) else None


def to_openai(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage` object for a Usage."""
    long = {"cache_write_long_tokens": usage.cache_write_long_tokens} if usage.cache_write_long_tokens else {}
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            **long,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def count(value: object) -> int:
    """A token count from a provider, as Envoy reads it in an answer that passes: also one written as `2.0`, or as a
    text. What is no number, or less than 1, is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return 0
    return int(min(number, MOST_TOKENS)) if 1 <= number < math.inf else 0


def _first(*values: object) -> int:
    return next((count(value) for value in values if count(value)), 0)


def _details(usage: dict[str, Any], name: str) -> dict[str, Any]:
    details = usage.get(name)
    return details if isinstance(details, dict) else {}
