"""Anthropic's format, judged by the official SDK."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import AsyncAnthropic

from control.demo.server import DemoProvider
from control.demo.simulator import Options

HELLO: list[Any] = [{"role": "user", "content": "Hello there"}]
MODEL = "claude-haiku-4-5-latest"
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
DATE: Any = {"name": "get_date", "input_schema": {"type": "object", "properties": {}}}
VERSION = {"anthropic-version": "2023-06-01"}


@pytest.fixture
async def client(demo: DemoProvider) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=demo.url, api_key="any", max_retries=0) as found:
        yield found


async def test_a_streamed_answer_is_the_plain_one(client: AsyncAnthropic) -> None:
    plain = await client.messages.create(model=MODEL, max_tokens=500, messages=HELLO)
    assert plain.model == "claude-haiku-4-5-20250101"
    assert plain.stop_reason == "end_turn"
    async with client.messages.stream(model=MODEL, max_tokens=500, messages=HELLO) as stream:
        streamed = await stream.get_final_message()
    assert streamed.content[0].to_dict()["text"] == plain.content[0].to_dict()["text"]
    assert streamed.stop_reason == plain.stop_reason
    assert streamed.usage.output_tokens == plain.usage.output_tokens
    assert streamed.usage.input_tokens == plain.usage.input_tokens


async def test_the_events_come_in_the_documented_order(http: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "max_tokens": 3, "messages": HELLO, "stream": True}
    answer = await http.post("/v1/messages", json=body, headers=VERSION)
    names = [line[7:] for line in answer.text.split("\n") if line.startswith("event: ")]
    kept = [name for name in dict.fromkeys(names) if name != "ping"]
    assert kept == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert "ping" in names


async def test_tool_use_whole_streamed_and_answered(client: AsyncAnthropic) -> None:
    messages: list[Any] = [{"role": "user", "content": "think aloud and call get_weather and get_date"}]
    plain = await client.messages.create(model=MODEL, max_tokens=500, messages=messages, tools=[WEATHER, DATE])
    assert plain.stop_reason == "tool_use"
    assert [block.type for block in plain.content] == ["text", "tool_use", "tool_use"]
    async with client.messages.stream(model=MODEL, max_tokens=500, messages=messages, tools=[WEATHER, DATE]) as stream:
        streamed = await stream.get_final_message()
    pairs = zip(plain.content, streamed.content, strict=True)
    for whole, joined in pairs:
        assert (whole.type, whole.to_dict().get("input")) == (joined.type, joined.to_dict().get("input"))

    messages.append({"role": "assistant", "content": [block.to_dict() for block in plain.content]})
    uses = [block for block in plain.content if block.type == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": f"sunny {use.name}"} for use in uses]
    messages.append({"role": "user", "content": [*results, {"type": "text", "text": "and so?"}]})
    after = await client.messages.create(model=MODEL, max_tokens=500, messages=messages, tools=[WEATHER, DATE])
    assert "get_weather returned sunny get_weather" in after.content[0].to_dict()["text"]


async def test_limits_stops_refusals_images_thinking_and_cache(client: AsyncAnthropic) -> None:
    cut = await client.messages.create(model=MODEL, max_tokens=5, messages=HELLO)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 5)
    stopped = await client.messages.create(model=MODEL, max_tokens=99, messages=HELLO, stop_sequences=["asked"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "asked")
    refused = await client.messages.create(
        model=MODEL, max_tokens=99, messages=[{"role": "user", "content": "refuse this"}]
    )
    assert refused.stop_reason == "refusal"

    image: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    seen: list[Any] = [{"role": "user", "content": [image, {"type": "text", "text": "What is it?"}]}]
    looked = await client.messages.create(model=MODEL, max_tokens=99, messages=seen)
    assert "1 image" in looked.content[0].to_dict()["text"]

    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    async with client.messages.stream(model=MODEL, max_tokens=2000, messages=HELLO, thinking=thinking) as stream:
        thought = await stream.get_final_message()
    assert [block.type for block in thought.content] == ["thinking", "text"]
    assert thought.content[0].to_dict()["signature"]
    assert thought.usage.output_tokens > 64

    long: Any = [{"type": "text", "text": "Be brief. " * 600, "cache_control": {"type": "ephemeral"}}]
    asked = [await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO, system=long) for _ in range(2)]
    first, second = (message.usage for message in asked)
    assert (first.cache_creation_input_tokens, first.cache_read_input_tokens) == (1408, 0)
    assert (second.cache_creation_input_tokens, second.cache_read_input_tokens) == (0, 1408)
    assert first.input_tokens == second.input_tokens
    assert first.input_tokens < 1408  # excludes both


async def test_structured_output(client: AsyncAnthropic) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "additionalProperties": False}
    config: Any = {"format": {"type": "json_schema", "schema": schema}}
    answer = await client.messages.create(model=MODEL, max_tokens=99, messages=HELLO, output_config=config)
    assert answer.content[0].to_dict()["text"].startswith('{"age":')


def formatted(schema: dict[str, Any]) -> dict[str, Any]:
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


USE = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "x"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"foo": 1}, "foo: Extra inputs"),
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"messages": []}, "at least one message"),
    ({"temperature": 1.5}, "temperature"),
    ({"n": 2}, "n: Extra"),
    ({"messages": [{"role": "system", "content": "x"}]}, "system"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "first message"),
    ({"messages": [{"role": "user", "content": ""}]}, "non-empty"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "non-empty"),
    ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages.0.name"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "y": 1}]}]}, "content.0.text.y"),
    ({"messages": [*HELLO, USE]}, "without `tool_result`"),
    ({"messages": [*HELLO, USE, *HELLO]}, "without `tool_result`"),
    ({"messages": [*HELLO, USE, {"role": "user", "content": [{"type": "text", "text": "x"}, RESULT]}]}, "immediately"),
    ({"messages": [{"role": "user", "content": [RESULT]}]}, "unexpected `tool_use_id`"),
    ({"messages": [*HELLO, {"role": "assistant", "content": "x "}]}, "trailing whitespace"),
    ({"model": "claude-opus-4-7", "temperature": 0.5}, "deprecated"),
    ({"model": "claude-sonnet-4-5", "temperature": 0.5, "top_p": 0.5}, "cannot both"),
    ({"model": "claude-sonnet-4-6", "messages": [*HELLO, {"role": "assistant", "content": "x"}]}, "prefill"),
    ({"tool_choice": {"type": "auto"}}, "tool_choice"),
    ({"tools": [DATE], "tool_choice": "auto"}, "tool_choice"),
    ({"tools": [{"name": "x", "input_schema": {}}]}, "input_schema.type"),
    ({"tools": [DATE, DATE]}, "unique"),
    ({"tools": [{"name": "x", "strict": True, "input_schema": {"type": "object"}}]}, "additionalProperties"),
    (formatted({"type": "object", "properties": {}}), "'additionalProperties' must be explicitly set to false"),
    (formatted({"anyOf": [{"type": "object"}]}), "additionalProperties"),
    (formatted({"type": "array", "items": {"type": "integer", "minimum": 0}}), "property 'minimum' is not supported"),
    (formatted({"type": "number", "minimum": 0, "maximum": 1}), "properties maximum, minimum are not supported"),
    (formatted({"type": "array", "minItems": 3}), "'minItems' values other than 0 or 1"),
    ({"stop_sequences": ["\n"]}, "non-whitespace"),
    ({"metadata": {"team_id": "x"}}, "metadata.team_id"),
    ({"thinking": {"type": "enabled", "budget_tokens": 10}}, "budget_tokens"),
]


@pytest.mark.parametrize(("change", "named"), REFUSED)
async def test_what_the_api_refuses(http: httpx.AsyncClient, change: dict[str, Any], named: str) -> None:
    body = {"model": MODEL, "max_tokens": 99, "messages": HELLO} | change
    answer = await http.post("/v1/messages", json=body, headers=VERSION)
    assert answer.status_code == 400
    found = answer.json()
    assert (found["type"], found["error"]["type"]) == ("error", "invalid_request_error")
    assert named in found["error"]["message"]
    assert found["request_id"] == answer.headers["request-id"]


async def test_two_turns_of_one_role_are_taken_as_one(http: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "max_tokens": 99, "messages": [*HELLO, *HELLO]}
    assert (await http.post("/v1/messages", json=body, headers=VERSION)).status_code == 200


async def test_the_version_header_is_needed(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/messages", json={"model": MODEL, "max_tokens": 9, "messages": HELLO})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "anthropic-version: header is required")


@pytest.mark.parametrize(("version", "status"), [("2023-06-01", 200), ("2026-10-21", 400), ("2030-01-01", 400)])
async def test_the_newer_version_has_no_temperature(http: httpx.AsyncClient, version: str, status: int) -> None:
    body = {"model": MODEL, "max_tokens": 9, "messages": HELLO, "temperature": 1}
    answer = await http.post("/v1/messages", json=body, headers={"anthropic-version": version})
    assert answer.status_code == status


async def test_errors_become_the_sdks_own(client: AsyncAnthropic) -> None:
    for status, kind in ((429, "rate_limit_error"), (529, "overloaded_error"), (500, "api_error")):
        messages: list[Any] = [{"role": "user", "content": f"[[demo status={status}]]"}]
        with pytest.raises(anthropic.APIStatusError) as caught:
            await client.messages.create(model=MODEL, max_tokens=9, messages=messages)
        assert caught.value.status_code == status
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["error"]["type"] == kind
    messages = [{"role": "user", "content": "[[demo error_in_stream=true]]"}]
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        async with client.messages.stream(model=MODEL, max_tokens=99, messages=messages) as stream:
            await stream.get_final_message()
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.create(model="unknown", max_tokens=9, messages=HELLO)


async def test_the_key_is_checked_when_there_is_one() -> None:
    async with DemoProvider(options=Options(api_key="right")) as provider:
        async with AsyncAnthropic(base_url=provider.url, api_key="wrong", max_retries=0) as client:
            with pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key"):
                await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO)
        async with AsyncAnthropic(base_url=provider.url, api_key="right", max_retries=0) as client:
            assert (await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO)).content
            assert [model.id async for model in client.models.list()] == [MODEL]
        async with httpx.AsyncClient(base_url=provider.url) as bare:
            body = {"model": MODEL, "max_tokens": 9, "messages": HELLO}
            for key, status in (("right", 200), ("wrong", 401)):
                answer = await bare.post("/v1/messages", json=body, headers=VERSION | {"x-api-key": key})
                assert answer.status_code == status
