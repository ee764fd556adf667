"""OpenAI's parameters at a provider that is not OpenAI: translated, harmless to leave out, or refused. As data.

In: a request's body and the provider's table. Out: nothing, or InvalidRequest naming the first parameter that would
have been lost. Used by the translating request modules. A parameter nobody knows is refused as OpenAI refuses it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from extproc.errors import InvalidRequest
from extproc.records import Target

# Translated everywhere, or consumed by the gateway itself.
COMMON = frozenset(
    {
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "stop",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
    }
)

# Left out anywhere, with the reason why nobody misses it.
HARMLESS = {
    "metadata": "labels of OpenAI's own store of completions; ours was read",
    "store": "whether OpenAI keeps the completion; no other provider offers to",
    "prompt_cache_key": "a hint to OpenAI's prompt cache; the answer is the same without it",
    "prompt_cache_retention": "a hint to OpenAI's prompt cache",
    "prompt_cache_options": "a hint to OpenAI's prompt cache",
    "prediction": "speeds up an answer whose text is mostly known; the answer is the same without it",
    "user": "an end user's id, for OpenAI's abuse detection",
    "safety_identifier": "an end user's id, for OpenAI's abuse detection",
}

# Values that say what is so anyway; any other value is refused.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
    "functions": ([],),
}


class Table(msgspec.Struct, frozen=True):
    """What one provider does beside COMMON and HARMLESS."""

    translated: frozenset[str] = frozenset()
    harmless: dict[str, str] = {}


def check(body: dict[str, Any], target: Target, table: Table) -> None:
    """Raises InvalidRequest for a parameter that `target` can neither express nor do without."""
    for name, value in body.items():
        if value is None or name in COMMON or name in table.translated or name in HARMLESS or name in table.harmless:
            continue
        if value not in NEUTRAL.get(name, ()):
            raise refusal(name, target, "" if name not in NEUTRAL else f" with the value {_short(value)}")
    check_stream_options(body, target)


def check_stream_options(body: Mapping[str, Any], target: Target) -> None:
    """Raises InvalidRequest for what is asked of a stream that `target` does not do. Usage is told to whoever asks."""
    if (body.get("stream_options") or {}).get("include_obfuscation"):
        raise refusal("stream_options.include_obfuscation", target)


def refusal(param: str, target: Target, detail: str = "") -> InvalidRequest:
    """The 400 for something that `target`'s provider has no word for."""
    return InvalidRequest(f"{param}: not supported by {target.model}{detail}.", param=param)


def _short(value: object) -> str:
    text = msgspec.json.encode(value).decode()  # as the client wrote it, not as Python would
    return text if len(text) <= 40 else text[:37] + "..."
