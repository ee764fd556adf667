"""Token usage between OpenAI's object and `records.Usage`.

In: a `usage` object as OpenAI and its many followers send it, or a Usage. Out: the other one. Who calls it: the openai
adapter reads, the translating adapters and `fold` write.
"""

from typing import Any

from extproc.records import Usage


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
    )


def to_openai(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage` object for a Usage."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def count(value: object) -> int:
    """A token count from a provider: anything that is not a natural number is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _first(*values: object) -> int:
    return next((count(value) for value in values if count(value)), 0)


def _details(usage: dict[str, Any], name: str) -> dict[str, Any]:
    details = usage.get(name)
    return details if isinstance(details, dict) else {}
