"""What other gateways got wrong in public, through a real Envoy: the parts that only bytes on a wire show.

The number in a name is that of the case; tests of the same cases without a wire are in tests/adapters.
"""

import gzip
import json
import time
import zlib
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import brotli
import openai
import pytest

from tests.envoy.harness import PROVIDER_KEY, Config, Gateway, Simulator, ask, bearer
from tests.envoy.scripted import CLOSE, RESET, Call, Script, Scripted, event, stream, whole

PRICE = {"input": 1.0, "cached_input": 0.5, "cache_write": 1.25, "output": 4.0}
FORMATS = ("openai", "anthropic", "google")
CITY = {"city": {"type": "string"}}


@pytest.fixture(scope="module")
def scripted() -> Iterator[Scripted]:
    provider = Scripted()
    yield provider
    provider.stop()


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
    return config


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


MODELS = pytest.mark.parametrize("model", FORMATS)
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": CITY}}}
    for name in ("get_weather", "get_time")
]


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
def test_trap_6_gemini_takes_its_calls_back_over_three_turns(
    gateway: Gateway, primary: Simulator, streams: bool
) -> None:
    """The simulator refuses, as Gemini 3 does, calls of the current turn that come back without their signatures."""
    messages: list[Any] = [{"role": "user", "content": "call get_weather and get_time"}]
    for _ in range(2):
        message = turn(gateway, messages, streams=streams)
        calls = message["tool_calls"]
        assert [call["function"]["name"] for call in calls] == ["get_weather", "get_time"]
        messages.append(message)
        messages += [{"role": "tool", "tool_call_id": call["id"], "content": "sunny"} for call in calls]
        said = turn(gateway, messages, streams=streams)
        assert "sunny" in said["content"]
        messages += [said, {"role": "user", "content": "call get_weather and get_time"}]
    assert primary.recent()[-1]["model"] == "gemini-3-flash"


def test_trap_6_without_its_signature_the_simulator_would_refuse(gateway: Gateway, primary: Simulator) -> None:
    messages: list[Any] = [{"role": "user", "content": "call get_weather and get_time"}]
    message = turn(gateway, messages, streams=False)
    for call in message["tool_calls"]:
        call["id"] = call["id"].replace("~sig~", "~sig~AAAA")
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "x"} for call in message["tool_calls"]]
    with pytest.raises(openai.BadRequestError):
        turn(gateway, [*messages, message, *results], streams=False)


def turn(gateway: Gateway, messages: list[Any], *, streams: bool) -> dict[str, Any]:
    """One turn of the official client's, and its message as the client's users send it back."""
    chat = gateway.client().chat.completions
    if not streams:
        answer = chat.create(model="gemini-3", messages=messages, tools=TOOLS)
        return answer.choices[0].message.model_dump(exclude_none=True)
    with chat.stream(model="gemini-3", messages=messages, tools=TOOLS) as events:
        return events.get_final_completion().choices[0].message.model_dump(exclude_none=True, exclude={"parsed"})


def once_then_gone(step: str, body: bytes) -> Script:
    """Answers the first request of a connection, and closes on the second: it had just become too old."""
    return lambda call: [whole(body)] if call.nth == 0 else [step]


@MODELS
@pytest.mark.parametrize("step", [CLOSE, RESET])
def test_trap_35_a_connection_that_went_stale_costs_no_request(
    gateway: Gateway, scripted: Scripted, model: str, step: str
) -> None:
    body = next(body for name, body, _ in BOTH.values() if name == model)
    scripted.does(once_then_gone(step, body))
    answers = [gateway.client().chat.completions.create(**ask("hi", model)) for _ in range(6)]
    assert {answer.choices[0].message.content for answer in answers} == {SAID}
    assert len(scripted.calls) > len(answers), "some met a stale connection"
    attempts = [(answer.model_extra or {})["gateway_metadata"]["attempts"] for answer in answers]
    assert max(attempts) == 2
    row = gateway.row((answers[attempts.index(2)].model_extra or {})["gateway_metadata"]["request_id"])
    assert (row["status"], row["attempts"], row["provider_used"]) == ("success", 2, f"s-{model}")
    assert row["routing_decision"] == "pinned"


@MODELS
def test_trap_35_a_provider_that_always_hangs_up_is_asked_twice_and_no_more(
    gateway: Gateway, scripted: Scripted, model: str
) -> None:
    scripted.says(RESET)
    with pytest.raises(openai.InternalServerError) as caught:
        gateway.client().chat.completions.create(**ask("hi", model))
    assert (caught.value.status_code, caught.value.code, len(scripted.calls)) == (502, "provider_error", 2)


@MODELS
@pytest.mark.parametrize("status", [500, 529, 429, 401])
def test_trap_21_an_answer_is_never_asked_for_again_at_the_same_provider(
    gateway: Gateway, scripted: Scripted, model: str, status: int
) -> None:
    scripted.says(whole(b"{}", status=status))
    with pytest.raises(openai.APIStatusError):
        gateway.client().chat.completions.create(**ask("hi", model))
    assert len(scripted.calls) == 1


@MODELS
def test_trap_27_silence_is_not_asked_for_twice(gateway: Gateway, scripted: Scripted, model: str) -> None:
    scripted.says(6.0)
    with pytest.raises(openai.InternalServerError) as caught:
        gateway.client().chat.completions.create(**ask("hi", model))
    assert (caught.value.status_code, caught.value.code, len(scripted.calls)) == (504, "provider_timeout", 1)


def test_trap_35_no_second_attempt_for_those_who_want_one(gateway: Gateway, scripted: Scripted) -> None:
    scripted.says(RESET)
    with pytest.raises(openai.InternalServerError):
        gateway.client().chat.completions.create(**ask("hi", "openai"), metadata={"fallback": "false"})
    assert len(scripted.calls) == 1


ENCODED: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "br": brotli.compress, "deflate": zlib.compress}


@MODELS
@pytest.mark.parametrize("encoding", ENCODED)
def test_trap_29_compressed_although_nobody_asked(
    gateway: Gateway, scripted: Scripted, model: str, encoding: str
) -> None:
    encode = ENCODED[encoding]
    _, body, events = next(both for both in BOTH.values() if both[0] == model)
    headers = {"content_encoding": encoding}
    scripted.does(
        lambda call: stream(*cut(encode(events), 9), **headers) if streamed(call) else [whole(encode(body), **headers)]
    )
    create = gateway.client().chat.completions.with_raw_response.create
    answers = [create(**ask("hi", model)), create(**ask("hi", model), stream=True)]
    text = "".join(choice.delta.content or "" for chunk in answers[1].parse() for choice in chunk.choices)  # type: ignore[union-attr,misc]
    assert (answers[0].parse().choices[0].message.content, text) == (SAID, SAID)  # type: ignore[union-attr]
    assert not [answer for answer in answers if "content-encoding" in answer.headers]
    rows = [gateway.row(answer.headers["x-gateway-request-id"]) for answer in answers]
    assert [(row["input_tokens"], row["estimated"]) for row in rows] == [(100, False)] * 2


@MODELS
@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("stream_", [False, True])
def test_trap_29_a_compressed_error_is_read(
    gateway: Gateway, scripted: Scripted, model: str, encoding: str, stream_: bool
) -> None:
    said = as_json({"type": "error", "error": {"type": "invalid_request_error", "message": "Prompt is too long"}})
    scripted.says(whole(ENCODED[encoding](said), status=400, content_encoding=encoding))
    with pytest.raises(openai.BadRequestError) as caught:
        gateway.client().chat.completions.create(**ask("hi", model), stream=stream_)
    assert (caught.value.code, caught.value.message.count("Prompt is too long")) == ("context_length_exceeded", 1)
    assert "content-encoding" not in caught.value.response.headers


@MODELS
@pytest.mark.parametrize("stream_", [False, True])
def test_trap_29_an_encoding_nobody_knows_is_an_error_at_once(
    gateway: Gateway, scripted: Scripted, model: str, stream_: bool
) -> None:
    answer = (
        stream(b"(\xb5/\xfd", content_encoding="zstd") if stream_ else [whole(b"(\xb5/\xfd", content_encoding="zstd")]
    )
    scripted.says(*answer)
    with pytest.raises(openai.InternalServerError) as caught:
        gateway.client().chat.completions.create(**ask("hi", model), stream=stream_)
    assert caught.value.code == "provider_error"


OVERLOADED: dict[str, list[bytes]] = {
    "openai": [event({"error": {"message": "Overloaded", "type": "server_error", "code": None}})],
    "anthropic": [
        event({"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}),
        event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "error"),
    ],
    "google": [event({"error": {"code": 503, "message": "Overloaded", "status": "UNAVAILABLE"}})],
}


@pytest.mark.parametrize(("model", "events"), OVERLOADED.items(), ids=OVERLOADED)
def test_trap_20_an_error_before_the_first_word_of_a_stream(
    gateway: Gateway, scripted: Scripted, model: str, events: list[bytes]
) -> None:
    scripted.says(*stream(*events))
    asked = ask("hi", model, stream=True)
    answer = gateway.http.post("/v1/chat/completions", json=asked, headers=bearer())
    said = [line for line in answer.text.splitlines() if line.startswith("data:")]
    assert len(said) == 1
    assert json.loads(said[0].removeprefix("data:"))["error"]["message"]
    assert gateway.row(answer.headers["x-gateway-request-id"])["status"] == "failed"
    with pytest.raises(openai.APIError):
        list(gateway.client().chat.completions.create(**ask("hi", model), stream=True))


@pytest.mark.parametrize("model", ["openai", "anthropic"])
def test_trap_19_done_is_said_although_the_provider_does_not_hang_up(
    gateway: Gateway, scripted: Scripted, model: str
) -> None:
    _, _, events = next(both for both in BOTH.values() if both[0] == model)
    *pieces, _ = stream(events, b": still here\n\n")
    scripted.says(*pieces, 20.0)
    asked = ask("hi", model, stream=True)
    received = b""
    with gateway.http.stream("POST", "/v1/chat/completions", json=asked, headers=bearer()) as answer:
        for piece in answer.iter_raw():
            received += piece
            if b"[DONE]" in received:
                break
    assert received.count(b"[DONE]") == 1
    row = gateway.row(answer.headers["x-gateway-request-id"])
    assert (row["status"], row["input_tokens"], row["estimated"]) == ("success", 100, False)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, (7, 7)),
        ({"retry_after": lambda: formatdate(time.time() + 90, usegmt=True)}, (80, 91)),
        ({"retry_after_ms": "2500", "retry_after": "60"}, (3, 3)),
        ({"retry_after": "86400000"}, (3600, 3600)),
    ],
    ids=["seconds", "date", "milliseconds", "capped"],
)
@MODELS
def test_trap_26_how_long_to_wait_is_told(
    gateway: Gateway, scripted: Scripted, model: str, headers: dict[str, Any], seconds: tuple[int, int]
) -> None:
    values = {name: value() if callable(value) else value for name, value in headers.items()}
    scripted.says(whole(b"{}", status=429, **values))
    while not scripted.calls:  # a provider that said so is left alone for a moment
        with pytest.raises(openai.RateLimitError) as caught:
            gateway.client().chat.completions.create(**ask("hi", model))
    least, most = seconds
    assert least <= int(caught.value.response.headers["retry-after"]) <= most


@MODELS
def test_trap_36_a_stream_may_be_silent_for_a_while(gateway: Gateway, scripted: Scripted, model: str) -> None:
    """Longer than the deadline for the first byte, shorter than `timeouts.idle`; before the first word and after it."""
    _, _, events = next(both for both in BOTH.values() if both[0] == model)
    head, *pieces, end = stream(*cut(events, len(events) // 2))
    scripted.says(head, 2.5, *[step for piece in pieces for step in (piece, 0.1)], end)
    chunks = list(gateway.client().chat.completions.create(**ask("hi", model), stream=True))
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == SAID


MEGABYTE = "x" * (1024 * 1024 - 1024)
ENDLESS = {
    "openai": chunk({"content": MEGABYTE}),
    "anthropic": event({"type": "content_block_delta", "delta": {"type": "text_delta", "text": MEGABYTE}}),
}


@pytest.mark.parametrize(("model", "piece"), ENDLESS.items(), ids=ENDLESS)
def test_trap_39_a_stream_has_an_end(gateway: Gateway, scripted: Scripted, model: str, piece: bytes) -> None:
    head, *pieces, end = stream(*[piece] * 70)
    scripted.says(head, *[step for each in pieces for step in (each, 0.01)], end)
    asked = ask("hi", model, stream=True)
    received, tail = 0, b""
    with gateway.http.stream("POST", "/v1/chat/completions", json=asked, headers=bearer()) as answer:
        for received_piece in answer.iter_raw():
            received += len(received_piece)
            tail = (tail + received_piece)[-400:]
    assert 32 * 1024 * 1024 < received < 66 * 1024 * 1024
    assert b'"error"' in tail
    assert b"[DONE]" not in tail
