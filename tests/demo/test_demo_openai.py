"""OpenAI's format, judged by the official SDK."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from control.demo.server import DemoProvider
from control.demo.simulator import Options

HELLO: list[Any] = [{"role": "user", "content": "Hello there"}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
DATE: dict[str, Any] = {"type": "function", "function": {"name": "get_date", "parameters": {}}}


@pytest.fixture
async def client(demo: DemoProvider) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{demo.url}/v1", api_key="any", max_retries=0) as found:
        yield found


async def test_a_streamed_answer_is_the_plain_one(client: AsyncOpenAI) -> None:
    plain = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert plain.model == "gpt-4o-2025-08-07"
    assert plain.choices[0].finish_reason == "stop"
    assert plain.usage is not None
    assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens

    stream = await client.chat.completions.create(
        model="gpt-4o", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == plain.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices[0].finish_reason] == ["stop"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == plain.usage


async def test_usage_comes_only_when_asked_for(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
    assert all(chunk.usage is None and chunk.choices for chunk in [chunk async for chunk in stream])


async def test_tool_calls_whole_streamed_and_answered(client: AsyncOpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "think aloud and call get_weather and get_date"}]
    plain = await client.chat.completions.create(model="gpt-4o", messages=messages, tools=[WEATHER, DATE])
    assert plain.choices[0].finish_reason == "tool_calls"
    calls = plain.choices[0].message.tool_calls
    assert calls is not None
    assert [call.function.name for call in calls] == ["get_weather", "get_date"]
    assert set(json.loads(calls[0].function.arguments)) == {"city", "days"}
    assert len({call.id for call in calls}) == 2

    async with client.chat.completions.stream(model="gpt-4o", messages=messages, tools=[WEATHER, DATE]) as stream:
        pieces = [event async for event in stream if event.type == "tool_calls.function.arguments.delta"]
        final = await stream.get_final_completion()
    streamed = final.choices[0].message.tool_calls
    assert streamed is not None
    assert [call.function.arguments for call in streamed] == [call.function.arguments for call in calls]
    assert {piece.index for piece in pieces} == {0, 1}
    assert len(pieces) > 3
    assert final.choices[0].message.content == plain.choices[0].message.content

    messages.append(plain.choices[0].message.model_dump(exclude_none=True))
    messages += [{"role": "tool", "tool_call_id": call.id, "content": f"sunny {call.function.name}"} for call in calls]
    after = await client.chat.completions.create(model="gpt-4o", messages=messages, tools=[WEATHER, DATE])
    assert "get_weather returned sunny get_weather; get_date returned sunny" in (after.choices[0].message.content or "")


async def test_json_mode_and_schema(client: AsyncOpenAI) -> None:
    asked: list[Any] = [{"role": "user", "content": "answer in json"}]
    anything = await client.chat.completions.create(
        model="gpt-4o", messages=asked, response_format={"type": "json_object"}
    )
    assert isinstance(json.loads(anything.choices[0].message.content or ""), dict)
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "additionalProperties": False}
    shaped = await client.chat.completions.create(
        model="gpt-4o",
        messages=HELLO,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
    )
    assert list(json.loads(shaped.choices[0].message.content or "")) == ["age"]
    with pytest.raises(openai.BadRequestError, match="'json'"):
        await client.chat.completions.create(model="gpt-4o", messages=HELLO, response_format={"type": "json_object"})


async def test_n_choices_differ_and_add_up(client: AsyncOpenAI) -> None:
    one = await client.chat.completions.create(model="gpt-4o", messages=HELLO)
    three = await client.chat.completions.create(model="gpt-4o", messages=HELLO, n=3)
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in three.choices}) == 3
    assert three.usage is not None
    assert one.usage is not None
    assert three.usage.completion_tokens > one.usage.completion_tokens
    stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, n=3, stream=True)
    joined = ["", "", ""]
    async for chunk in stream:
        joined[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert joined == [choice.message.content for choice in three.choices]


async def test_limits_refusals_images_reasoning_and_cache(client: AsyncOpenAI) -> None:
    cut = await client.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=5)
    assert cut.usage is not None
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 5)

    refused = await client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "refuse this"}]
    )
    assert (refused.choices[0].message.content, bool(refused.choices[0].message.refusal)) == (None, True)
    blocked = await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "block this"}])
    assert blocked.choices[0].finish_reason == "content_filter"

    image: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    seen: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image, image]}]
    looked = await client.chat.completions.create(model="gpt-4o", messages=seen)
    assert "2 images" in (looked.choices[0].message.content or "")

    thought = await client.chat.completions.create(model="o3", messages=HELLO, reasoning_effort="high")
    assert thought.usage is not None
    assert thought.usage.completion_tokens_details is not None
    assert thought.usage.completion_tokens_details.reasoning_tokens == 256

    long: list[Any] = [{"role": "system", "content": "Be brief. " * 600}, *HELLO]
    usages = [(await client.chat.completions.create(model="gpt-4o", messages=long)).usage for _ in range(2)]
    details = [usage.prompt_tokens_details for usage in usages if usage is not None]
    assert [detail.cached_tokens for detail in details if detail is not None] == [0, 1408]


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"foo": 1}, "foo"),
    ({"messages": []}, "messages"),
    ({"temperature": 2.5}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"n": 0}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"metadata": {"team_id": "x"}}, "metadata"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"model": "gpt-5-nano", "max_tokens": 5}, "max_tokens"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "x", "extra": 1}]}, "messages[0].extra"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "image_url.url"),
    ({"messages": [*HELLO, {"role": "tool", "tool_call_id": "c1", "content": "x"}]}, "messages[1]"),
    ({"messages": [*HELLO, {"role": "assistant", "tool_calls": [CALL]}, *HELLO]}, "messages[2].role"),
    ({"messages": [*HELLO, {"role": "assistant", "content": None}]}, "messages[1].content"),
    ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name"),
    ({"tools": [DATE], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
    ({"response_format": {"type": "yaml"}}, "response_format"),
]


@pytest.mark.parametrize(("change", "param"), REFUSED)
async def test_what_the_api_refuses(http: httpx.AsyncClient, change: dict[str, Any], param: str) -> None:
    answer = await http.post("/v1/chat/completions", json={"model": "gpt-4o", "messages": HELLO} | change)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"].endswith(param)


async def test_unreadable_bodies_are_400(http: httpx.AsyncClient) -> None:
    for body in (b"", b"{", b"[]", b'{"model": null}', b"\xff"):
        answer = await http.post("/v1/chat/completions", content=body)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_errors_become_the_sdks_own(client: AsyncOpenAI) -> None:
    kinds: dict[int, type[openai.APIStatusError]] = {
        400: openai.BadRequestError,
        401: openai.AuthenticationError,
        403: openai.PermissionDeniedError,
        404: openai.NotFoundError,
        429: openai.RateLimitError,
        503: openai.InternalServerError,
    }
    for status, kind in kinds.items():
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": f"[[demo status={status}]]"}]
            )
        assert caught.value.status_code == status
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        await client.chat.completions.create(model="unknown-model", messages=HELLO)


async def test_an_error_inside_the_stream_is_raised_by_the_sdk(client: AsyncOpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "[[demo error_in_stream=true at=3]]"}]
    stream = await client.chat.completions.create(model="gpt-4o", messages=messages, stream=True)
    text = ""

    async def read() -> None:
        nonlocal text
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""

    with pytest.raises(openai.APIError, match="server had an error"):
        await read()
    assert len(text.split()) == 3


async def test_the_key_is_checked_when_there_is_one() -> None:
    async with DemoProvider(options=Options(api_key="right")) as provider:
        async with AsyncOpenAI(base_url=f"{provider.url}/v1", api_key="right", max_retries=0) as client:
            assert (await client.chat.completions.create(model="gpt-4o", messages=HELLO)).choices
        async with AsyncOpenAI(base_url=f"{provider.url}/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                await client.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert caught.value.code == "invalid_api_key"
        async with httpx.AsyncClient(base_url=provider.url) as bare:
            assert (await bare.post("/v1/chat/completions", json={})).status_code == 401


async def test_models_and_azure_paths(client: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    assert "gpt-4o" in [model.id async for model in client.models.list()]
    assert (await client.models.retrieve("gpt-9")).id == "gpt-9"
    path = "/openai/deployments/mine/chat/completions?api-version=2024-10-21"
    answer = await http.post(path, json={"messages": HELLO})
    assert answer.json()["model"].startswith("mine")
    assert (await http.get("/v2/nothing")).status_code == 404
