"""What other gateways got wrong in public, through a real Envoy: the parts that only bytes on a wire show.

The number in a name is that of the case; tests of the same cases without a wire are in tests/adapters.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.envoy.harness import PROVIDER_KEY, Gateway, Simulator, ask, base_config
from tests.envoy.scripted import Call, Scripted, event, stream, whole

PRICE = {"input": 1.0, "cached_input": 0.5, "cache_write": 1.25, "output": 4.0}
FORMATS = ("openai", "anthropic", "google")


@pytest.fixture(scope="module")
def scripted() -> Iterator[Scripted]:
    provider = Scripted()
    yield provider
    provider.stop()


@pytest.fixture(scope="module")
def gateway(
    simulators: tuple[Simulator, Simulator], scripted: Scripted, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """Models named after their format are at the scripted provider; those with `-ha` have a stand-in."""
    folder = tmp_path_factory.mktemp("gw")
    config = base_config(folder / "data", *simulators)
    for name in FORMATS:
        config["providers"][f"s-{name}"] = {"format": name, "base_url": scripted.url, "credential": PROVIDER_KEY}
        config["models"] += [
            {"name": f"{name}{suffix}", "provider": f"s-{name}", "price": PRICE, "max_output": 4096}
            for suffix in ("", "-ha")
        ]
        config["equivalents"].append({"models": [f"{name}-ha", "gpt-b"]})
    running = Gateway(config, folder)
    yield running
    assert running.stop() == 0, running.log()[-3000:]


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
COUNTED = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens", "cost_usd")


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize(("model", "body", "events"), BOTH.values(), ids=BOTH)
def test_traps_12_13_a_stream_costs_what_the_same_answer_costs_whole(
    gateway: Gateway, scripted: Scripted, model: str, body: bytes, events: bytes, include_usage: bool
) -> None:
    create = gateway.client().chat.completions.with_raw_response.create
    options: Any = {"stream_options": {"include_usage": True}} if include_usage else {}
    scripted.does(lambda call: stream(*cut(events, 7)) if streamed(call) else [whole(body)])
    answers = [create(**ask("hi", model)), create(**ask("hi", model), stream=True, **options)]
    said = list(answers[1].parse())  # type: ignore[call-overload]
    assert "".join(choice.delta.content or "" for chunk in said for choice in chunk.choices) == SAID
    rows = [gateway.row(answer.headers["x-gateway-request-id"]) for answer in answers]
    assert {name: rows[1][name] for name in COUNTED} == {name: rows[0][name] for name in COUNTED}
    assert (rows[0]["input_tokens"], rows[0]["cached_tokens"] in (0, 40), rows[1]["estimated"]) == (100, True, False)


def streamed(call: Call) -> bool:
    return bool(call.body.get("stream")) or "streamGenerateContent" in call.path


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]
