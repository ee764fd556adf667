"""The same conversation in three formats: the same answer and the same counts."""

import json
from typing import Any

import httpx
import pytest

VERSION = {"anthropic-version": "2023-06-01"}
SYSTEM = "Be brief. " * 600
PROPERTIES = {"city": {"type": "string"}, "days": {"type": "integer"}}
SCHEMA = {"type": "object", "properties": PROPERTIES}
GOOGLE_SCHEMA = {"type": "OBJECT", "properties": {"city": {"type": "STRING"}, "days": {"type": "INTEGER"}}}
ARGUMENTS = {"city": "Zürich", "days": 2}

Exchange = tuple[Any, int, int]  # text or arguments, input tokens, output tokens


async def by_openai(http: httpx.AsyncClient, user: str, limit: int, *, after_tool: bool) -> Exchange:
    messages: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]
    if after_tool:
        function = {"name": "get_weather", "arguments": json.dumps(ARGUMENTS)}
        messages.append({"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}]})
        messages.append({"role": "tool", "tool_call_id": "c", "content": '{"sky": "blue"}'})
        messages.append({"role": "user", "content": "So?"})
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]
    body = {"model": "m", "messages": messages, "tools": tools, "max_tokens": limit}
    answer = (await http.post("/v1/chat/completions", json=body)).json()
    message, usage = answer["choices"][0]["message"], answer["usage"]
    said = message["content"] or json.loads(message["tool_calls"][0]["function"]["arguments"])
    return said, usage["prompt_tokens"], usage["completion_tokens"]


async def by_anthropic(http: httpx.AsyncClient, user: str, limit: int, *, after_tool: bool) -> Exchange:
    messages: list[Any] = [{"role": "user", "content": user}]
    if after_tool:
        use = {"type": "tool_use", "id": "c", "name": "get_weather", "input": ARGUMENTS}
        messages.append({"role": "assistant", "content": [use]})
        result = {"type": "tool_result", "tool_use_id": "c", "content": '{"sky": "blue"}'}
        messages.append({"role": "user", "content": [result, {"type": "text", "text": "So?"}]})
    tools = [{"name": "get_weather", "input_schema": SCHEMA}]
    body = {"model": "m", "system": SYSTEM, "messages": messages, "tools": tools, "max_tokens": limit}
    answer = (await http.post("/v1/messages", json=body, headers=VERSION)).json()
    block, usage = answer["content"][0], answer["usage"]
    said = block["text"] if block["type"] == "text" else block["input"]
    return said, usage["input_tokens"], usage["output_tokens"]


async def by_google(http: httpx.AsyncClient, user: str, limit: int, *, after_tool: bool) -> Exchange:
    contents: list[Any] = [{"role": "user", "parts": [{"text": user}]}]
    if after_tool:
        contents.append({"role": "model", "parts": [{"functionCall": {"name": "get_weather", "args": ARGUMENTS}}]})
        response = {"name": "get_weather", "response": {"sky": "blue"}}
        contents.append({"role": "user", "parts": [{"functionResponse": response}]})
        contents.append({"role": "user", "parts": [{"text": "So?"}]})
    body = {
        "systemInstruction": {"parts": [{"text": SYSTEM}]},
        "contents": contents,
        "tools": [{"functionDeclarations": [{"name": "get_weather", "parameters": GOOGLE_SCHEMA}]}],
        "generationConfig": {"maxOutputTokens": limit},
    }
    answer = (await http.post("/v1beta/models/m:generateContent", json=body)).json()
    part, usage = answer["candidates"][0]["content"]["parts"][0], answer["usageMetadata"]
    said = part["text"] if "text" in part else part["functionCall"]["args"]
    return said, usage["promptTokenCount"], usage["candidatesTokenCount"]


@pytest.mark.parametrize("after_tool", [False, True])
@pytest.mark.parametrize(("user", "limit"), [("Grüezi 🙂", 500), ("Grüezi 🙂", 7), ("call get_weather", 500)])
async def test_one_conversation_three_formats(http: httpx.AsyncClient, user: str, limit: int, after_tool: bool) -> None:
    openai = await by_openai(http, user, limit, after_tool=after_tool)
    anthropic = await by_anthropic(http, user, limit, after_tool=after_tool)
    google = await by_google(http, user, limit, after_tool=after_tool)
    assert openai == anthropic == google
