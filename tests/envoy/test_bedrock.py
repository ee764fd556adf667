"""A provider in Bedrock's format behind a real Envoy: whole, streamed, refused, breaking off, standing in."""

from typing import Any

import openai
import pytest

from tests.envoy.harness import PROVIDER_KEY, Config, Gateway, Simulator, ask, marker, wait_until
from tests.envoy.scripted import Scripted, whole

MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
PRICE = {"input": 1.0, "cached_input": 0.5, "cache_write": 1.25, "output": 4.0}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@pytest.fixture(scope="module")
def config(config: Config, simulators: tuple[Simulator, Simulator], scripted: Scripted) -> Config:
    config["providers"]["aws-full"] = {"format": "bedrock", "base_url": scripted.url, "credential": PROVIDER_KEY}
    for name in ("full", "full-ha"):
        config["models"].append({"name": name, "provider": "aws-full", "upstream_name": MODEL, "price": PRICE})
    config["providers"]["aws"] = {"format": "bedrock", "base_url": simulators[0].url, "credential": PROVIDER_KEY}
    for name in ("nova", "nova-ha"):
        config["models"].append({"name": name, "provider": "aws", "upstream_name": MODEL, "price": PRICE})
    config["models"].append({"name": "gpt-then", "provider": "openai", "upstream_name": "gpt-model", "price": PRICE})
    config["equivalents"] += [
        {"models": ["full-ha", "gpt-b"]},
        {"models": ["nova-ha", "gpt-b"]},
        {"models": ["gpt-then", "nova"]},
    ]
    return config


def said(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_whole_and_streamed_say_the_same(gateway: Gateway, primary: Simulator) -> None:
    chat = gateway.client().chat.completions
    whole = chat.with_raw_response.create(**ask("Tell me a story.", "nova"))
    raw = chat.with_raw_response.create(
        **ask("Tell me a story.", "nova"), stream=True, stream_options={"include_usage": True}
    )
    assert raw.headers["content-type"].startswith("text/event-stream")
    chunks = list(raw.parse())
    answer = whole.parse()
    assert said(chunks) == answer.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens
    for headers in (whole.headers, raw.headers):
        row = gateway.row(headers["x-gateway-request-id"])
        assert (row["status"], row["provider_used"], row["finish_reason"]) == ("success", "aws", "stop")
        assert row["output_tokens"] == answer.usage.completion_tokens
        assert row["cost_usd"] > 0
    assert [(each["format"], each["model"], each["stream"]) for each in primary.recent()] == [
        ("bedrock", MODEL, False),
        ("bedrock", MODEL, True),
    ]


def test_tools_streamed(gateway: Gateway) -> None:
    request = ask("How is the weather?", "nova", tools=[WEATHER], tool_choice="required")
    whole = gateway.client().chat.completions.create(**request).choices[0].message.tool_calls
    pieces = [
        call
        for chunk in gateway.client().chat.completions.create(**request, stream=True)
        for choice in chunk.choices
        for call in choice.delta.tool_calls or ()
    ]
    assert whole
    assert [(call.index, call.function.name) for call in pieces if call.id] == [(0, "get_weather")]
    assert "".join(call.function.arguments or "" for call in pieces) == whole[0].function.arguments


@pytest.mark.parametrize("fault", [{"one_byte_chunks": "true"}, {"split_utf8": "true"}, {"gzip": "true"}], ids=str)
def test_however_the_bytes_come(gateway: Gateway, fault: dict[str, str]) -> None:
    chunks = list(gateway.client().chat.completions.create(**ask(f"Grüße {marker(**fault)}", "nova"), stream=True))
    assert said(chunks)
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"error_in_stream": "true"}, "provider_error"),
        ({"error_in_stream": "throttlingException"}, "rate_limit_exceeded"),
        ({"malformed_sse": "true"}, "provider_error"),
        ({"end_mid_stream": "true"}, "provider_error"),
    ],
    ids=str,
)
def test_a_stream_that_fails_says_so(gateway: Gateway, fault: dict[str, str], code: str) -> None:
    raw = gateway.client().chat.completions.with_raw_response.create(
        **ask(f"A story {marker(**fault)}", "nova"), stream=True
    )
    with pytest.raises(openai.APIError) as caught:
        list(raw.parse())
    assert caught.value.code == code
    row = gateway.row(raw.headers["x-gateway-request-id"])
    assert (row["status"], row["error_code"]) == ("failed", code)


def test_a_refusal_is_told_in_its_own_words(gateway: Gateway) -> None:
    words = "'Input is too long for requested model.'"
    with pytest.raises(openai.BadRequestError) as caught:
        gateway.client().chat.completions.create(**ask(marker(status=400, message=words), "nova"))
    assert caught.value.code == "context_length_exceeded"
    assert "too long" in caught.value.message


@pytest.mark.parametrize("status", [403, 408, 424, 429, 500, 503])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_next_equivalent_answers(gateway: Gateway, second: Simulator, status: int, stream: bool) -> None:
    text = f"A story {marker(fail_provider='bedrock', status=status)}"
    raw = gateway.client().chat.completions.with_raw_response.create(**ask(text, "nova-ha"), stream=stream)
    answer: Any = raw.parse()
    assert said(list(answer)) if stream else answer.choices[0].message.content
    assert raw.headers["x-gateway-model"] == "gpt-b"
    request_id = raw.headers["x-gateway-request-id"]

    def told() -> list[int]:
        return [attempt["status"] for attempt in gateway.row(request_id)["attempt_log"]]

    wait_until(lambda: told() == [status, 200], 10, "both attempts, each by the thread of Envoy that made it")


def test_a_400_about_the_account_is_not_the_clients(gateway: Gateway, scripted: Scripted) -> None:
    """Source: the errors of InvokeModel; a quota of the account is refused with the status of a wrong request."""
    kind = "ServiceQuotaExceededException:http://internal.amazon.com/coral/com.amazon.bedrock/"
    scripted.says(whole(b'{"message": "Your account is over its quota."}', status=400, x_amzn_errortype=kind))
    assert gateway.client().chat.completions.create(**ask("hi", "full-ha")).model == "gpt-b"
    with pytest.raises(openai.InternalServerError) as caught:
        gateway.client().chat.completions.create(**ask("hi", "full"))
    assert (caught.value.code, "quota" in caught.value.message) == ("provider_error", False)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_it_stands_in_for_another_format(gateway: Gateway, primary: Simulator, stream: bool) -> None:
    text = f"A story {marker(fail_provider='openai', status=500)}"
    raw = gateway.client().chat.completions.with_raw_response.create(**ask(text, "gpt-then"), stream=stream)
    answer: Any = raw.parse()
    assert said(list(answer)) if stream else answer.choices[0].message.content
    assert raw.headers["x-gateway-model"] == "nova"
    row = gateway.row(raw.headers["x-gateway-request-id"])
    assert (row["status"], row["model_used"]) == ("fallback", "nova")
    assert row["output_tokens"] > 0


def test_a_wrong_credential_is_the_gateways_business(gateway: Gateway) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        gateway.client().chat.completions.create(**ask(marker(status=403), "nova"))
    assert caught.value.code == "provider_error"
