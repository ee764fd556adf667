"""A gateway before a scripted provider: its configuration, and pieces of answers."""

import json
from typing import Any

import pytest

from tests.envoy.harness import PROVIDER_KEY, Config, impatient
from tests.envoy.scripted import Call, Scripted, event

PRICE = {"input": 1.0, "cached_input": 0.5, "cache_write": 1.25, "output": 4.0}
FORMATS = ("openai", "anthropic", "google")


@pytest.fixture(scope="module")
def config(config: Config, scripted: Scripted) -> Config:
    """Models named after their format are at the scripted provider; those with `-ha` have a stand-in."""
    for name in FORMATS:
        config["providers"][f"s-{name}"] = {"format": name, "base_url": scripted.url, "credential": PROVIDER_KEY}
        config["models"] += [
            {"name": f"{name}{suffix}", "provider": f"s-{name}", "price": PRICE, "max_output": 4096}
            for suffix in ("", "-ha")
        ]
        config["equivalents"].append({"models": [f"{name}-ha", "gpt-b"]})
    config["models"].append(
        {"name": "gemini-3", "provider": "google", "upstream_name": "gemini-3-flash", "price": PRICE}
    )
    return impatient(config)


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    return event({**base, **more})


SAID = "Hello"
OPENAI_USAGES = {
    "openai": {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 5},
    },
    "deepseek": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "prompt_cache_hit_tokens": 40},
    "litellm": {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "cache_read_input_tokens": 40,
        "cache_creation_input_tokens": 30,
    },
    "xai": {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 170,
        "completion_tokens_details": {"reasoning_tokens": 50},
    },
}


def openai_both(usage: dict[str, Any]) -> tuple[bytes, bytes]:
    """The same answer whole and streamed."""
    message = {"role": "assistant", "content": SAID}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    base = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    events = [chunk({"role": "assistant", "content": SAID}, "stop"), event({**base, "choices": [], "usage": usage})]
    return as_json({**base, "choices": choices, "usage": usage}), b"".join([*events, event("[DONE]")])


def anthropic_both() -> tuple[bytes, bytes]:
    """Input counted at the start, output at the end; what its cache wrote for an hour is dearer."""
    cached = {"cache_read_input_tokens": 40, "cache_creation_input_tokens": 30}
    cached["cache_creation"] = {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10}
    usage = {"input_tokens": 30, "output_tokens": 20, **cached, "output_tokens_details": {"thinking_tokens": 5}}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "c", "stop_reason": "end_turn"}
    block = {"type": "text", "text": SAID}
    start = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    events = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": SAID}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    ]
    sse = b"".join(event(each, str(each["type"])) for each in events)
    return as_json({**message, "content": [block], "usage": usage}), sse


def google_both() -> tuple[bytes, bytes]:
    usage = {
        "promptTokenCount": 90,
        "toolUsePromptTokenCount": 10,
        "cachedContentTokenCount": 40,
        "candidatesTokenCount": 15,
        "thoughtsTokenCount": 5,
    }
    content = {"role": "model", "parts": [{"text": SAID}]}
    answer = {"candidates": [{"index": 0, "content": content, "finishReason": "STOP"}], "usageMetadata": usage}
    early = {"candidates": [], "usageMetadata": {"promptTokenCount": 90, "candidatesTokenCount": 1}}
    return as_json(answer), event(early) + event(answer)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


BOTH = {
    **{f"openai-{name}": ("openai", *openai_both(usage)) for name, usage in OPENAI_USAGES.items()},
    "anthropic": ("anthropic", *anthropic_both()),
    "google": ("google", *google_both()),
}


def streamed(call: Call) -> bool:
    return bool(call.body.get("stream")) or "streamGenerateContent" in call.path


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]
