"""What Google is sent, and what its own words become."""

import json
from typing import Any

import httpx2 as httpx
import openai
import pytest

from extproc.adapters.emit import ClientStream
from extproc.adapters.fold import fold
from extproc.adapters.registry import adapter_for
from extproc.chat import parse_chat
from extproc.errors import InvalidRequest
from extproc.records import Usage

from .asking import HELLO, WEATHER, ask, body, target

USER = {"role": "user", "content": "Weather?"}


@pytest.mark.parametrize(
    ("upstream", "stream", "path"),
    [
        ("gemini-3-flash", False, "/models/gemini-3-flash:generateContent"),
        ("gemini-3-flash", True, "/models/gemini-3-flash:streamGenerateContent?alt=sse"),
        ("tunedModels/mine", False, "/tunedModels/mine:generateContent"),
    ],
)
def test_path(upstream: str, stream: bool, path: str) -> None:
    assert ask("google", to={"upstream_name": upstream}, stream=stream).path == path


def config(**fields: Any) -> Any:
    to = {"upstream_name": fields.pop("upstream", "gemini-3-flash")}
    return body("google", to=to, **fields).get("generationConfig")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": 2, "top_p": 0.5}, {"temperature": 2, "topP": 0.5}),
        ({"max_completion_tokens": 5, "n": 3}, {"maxOutputTokens": 5, "candidateCount": 3}),
        ({"stop": ["a", "b"], "seed": 3}, {"stopSequences": ["a", "b"], "seed": 3}),
        ({"frequency_penalty": 1, "presence_penalty": -1}, {"frequencyPenalty": 1, "presencePenalty": -1}),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, {"responseMimeType": "application/json"}),
        ({"reasoning_effort": "minimal"}, {"thinkingConfig": {"thinkingLevel": "minimal"}}),
        ({"reasoning_effort": "high"}, {"thinkingConfig": {"thinkingLevel": "high"}}),
        ({"reasoning_effort": "none", "upstream": "gemini-2.5-flash"}, {"thinkingConfig": {"thinkingBudget": 0}}),
        ({"reasoning_effort": "high", "upstream": "gemini-2.5-pro"}, {"thinkingConfig": {"thinkingBudget": 24576}}),
    ],
)
def test_generation_config(fields: dict[str, Any], expected: Any) -> None:
    assert config(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"reasoning_effort": "none"}, "reasoning_effort"),
        ({"reasoning_effort": "max"}, "reasoning_effort"),
        ({"messages": [USER, {"role": "tool", "tool_call_id": "9", "content": "x"}]}, "messages[1].tool_call_id"),
        ({"messages": [{"role": "developer", "content": "x"}]}, "messages"),
    ],
)
def test_what_gemini_cannot_do_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body("google", **fields)
    assert caught.value.param == param


def call(call_id: str, **more: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "get_weather", "arguments": "{}"}, **more}


def signatures(*calls: dict[str, Any], upstream: str = "gemini-3-flash") -> list[str | None]:
    messages = [USER, {"role": "assistant", "content": "Let me see.", "tool_calls": list(calls)}]
    parts = body("google", to={"upstream_name": upstream}, messages=messages)["contents"][1]["parts"]
    assert parts[0] == {"text": "Let me see."}
    return [part.get("thoughtSignature") for part in parts[1:]]


def test_trap_6_a_signature_comes_back_with_its_call() -> None:
    assert signatures(call("a~sig~c2ln+/=="), call("b")) == ["c2ln+/==", None]
    assert signatures(call("a", extra_content={"google": {"thought_signature": "Z29v"}})) == ["Z29v"]


def test_trap_6_calls_of_another_model_have_no_signature_and_say_so() -> None:
    assert signatures(call("call_1"), call("call_2")) == ["skip_thought_signature_validator", None]
    assert signatures(call("call_1"), upstream="gemini-2.5-pro") == [None]


@pytest.mark.parametrize("streamed", [True, False])
def test_trap_6_the_official_client_carries_a_signature_to_the_next_turn(streamed: bool) -> None:
    """Turn 1 through the SDK, its message appended as the SDK's users do it, turn 2 back in Google's terms."""
    answer = {
        "candidates": [
            {
                "content": {
                    "parts": [
                        {
                            "functionCall": {"name": "get_weather", "args": {"city": "Köln"}},
                            "thoughtSignature": "U2ln+/==",
                        },
                        {"functionCall": {"name": "get_weather", "args": {"city": "Bonn"}}},
                    ]
                },
                "finishReason": "STOP",
            }
        ]
    }
    adapter = adapter_for(target("google"), "chatcmpl-1", 1, streamed)
    if streamed:
        client = ClientStream(adapter, include_usage=False)
        out = client.feed(f"data: {json.dumps(answer)}\r\n\r\n".encode()) + client.finish()[0]
    else:
        adapter.feed(json.dumps(answer).encode())
        out = json.dumps(fold([], adapter.finish())).encode()
    kind = "text/event-stream" if streamed else "application/json"
    transport = httpx.MockTransport(lambda _: httpx.Response(200, headers={"content-type": kind}, content=out))
    sdk = openai.OpenAI(api_key="k", base_url="http://gateway/v1", http_client=httpx.Client(transport=transport))
    messages: list[Any] = [USER]
    if streamed:
        calls: dict[int, dict[str, Any]] = {}
        for chunk in sdk.chat.completions.create(model="m", messages=messages, stream=True):
            for part in chunk.choices[0].delta.tool_calls or ():
                assert part.function is not None
                found = calls.setdefault(part.index, {"id": part.id, "type": "function", "function": {"arguments": ""}})
                found["function"]["name"] = part.function.name
                found["function"]["arguments"] += part.function.arguments or ""
        messages.append({"role": "assistant", "tool_calls": list(calls.values())})
    else:
        message = sdk.chat.completions.create(model="m", messages=messages).choices[0].message
        messages.append(message.model_dump(exclude_none=True))
    messages += [
        {"role": "tool", "tool_call_id": called["id"], "content": "Sun"} for called in messages[1]["tool_calls"]
    ]
    sent = body("google", messages=messages)["contents"]
    assert [part.get("thoughtSignature") for part in sent[1]["parts"]] == ["U2ln+/==", None]
    assert [part["functionCall"]["args"]["city"] for part in sent[1]["parts"]] == ["Köln", "Bonn"]
    called_ids = [part["functionCall"]["id"] for part in sent[1]["parts"]]
    assert [part["functionResponse"]["id"] for part in sent[2]["parts"]] == called_ids
    assert len(set(called_ids)) == 2


def test_results_repeat_the_name_of_the_function_and_share_a_turn() -> None:
    messages = [
        USER,
        {"role": "assistant", "tool_calls": [call("a"), call("b")]},
        {
            "role": "tool",
            "tool_call_id": "b",
            "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}],
        },
        {"role": "tool", "tool_call_id": "a", "content": None},
        {"role": "user", "content": "So?"},
    ]
    results = body("google", messages=messages)["contents"][2]["parts"]
    assert results[0] == {"functionResponse": {"id": "b", "name": "get_weather", "response": {"output": "xy"}}}
    assert results[1]["functionResponse"]["response"] == {"output": ""}
    assert results[2] == {"text": "So?"}


@pytest.mark.parametrize(
    ("choice", "strict", "expected"),
    [
        (None, False, None),
        ("auto", True, {"mode": "VALIDATED"}),
        ("none", True, {"mode": "NONE"}),
        ("required", False, {"mode": "ANY"}),
        (
            {"type": "function", "function": {"name": "get_weather"}},
            False,
            {"mode": "ANY", "allowedFunctionNames": ["get_weather"]},
        ),
    ],
)
def test_trap_32_tool_choice(choice: Any, strict: bool, expected: Any) -> None:
    tool = {**WEATHER, "function": {**WEATHER["function"], "strict": strict}}  # type: ignore[dict-item]
    sent = body("google", tools=[tool], tool_choice=choice)
    assert sent.get("toolConfig", {}).get("functionCallingConfig") == expected


@pytest.mark.parametrize(
    ("schema", "kept"),
    [
        (None, False),
        ({}, False),
        ({"type": "object", "properties": {}}, False),
        ({"type": "object", "properties": {}, "required": [], "additionalProperties": False}, False),
        ({"type": "object", "additionalProperties": True}, True),
        ({"$ref": "#/$defs/a", "$defs": {"a": {}}}, True),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, True),
    ],
)
def test_a_schema_that_says_something_is_kept(schema: Any, kept: bool) -> None:
    sent = body("google", tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}])
    declaration = sent["tools"][0]["functionDeclarations"][0]
    assert declaration == ({"name": "f", "parametersJsonSchema": schema} if kept else {"name": "f"})


def answer(reason: str | None, *parts: dict[str, Any], **more: Any) -> bytes:
    candidate = {"content": {"parts": list(parts)}} | ({"finishReason": reason} if reason else {})
    return json.dumps({"candidates": [candidate], **more}).encode()


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("STOP", "stop"),
        ("stop", "stop"),
        ("MAX_TOKENS", "length"),
        ("Max_Tokens", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("LANGUAGE", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("IMAGE_SAFETY", "content_filter"),
        ("OTHER", "stop"),
        ("INVENTED_TOMORROW", "stop"),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_trap_5_finish_reasons(reason: str, expected: str, streamed: bool) -> None:
    adapter = adapter_for(target("google"), "id", 1, streamed)
    data = answer(reason, {"text": "x"})
    adapter.feed(b"data: " + data + b"\r\n\r\n" if streamed else data)
    final = adapter.finish()
    assert (final.complete, final.finish_reason) == (True, expected)


def test_trap_5_no_finish_reason_in_a_stream_is_an_answer_cut_short() -> None:
    adapter = adapter_for(target("google"), "id", 1, True)
    adapter.feed(b"data: " + answer(None, {"text": "x"}) + b"\n\n")
    assert not adapter.finish().complete


def test_trap_5_no_finish_reason_in_a_whole_answer_is_none_needed() -> None:
    adapter = adapter_for(target("google"), "id", 1, False)
    adapter.feed(answer(None, {"text": "x"}))
    final = adapter.finish()
    assert (final.complete, final.finish_reason) == (True, "stop")


@pytest.mark.parametrize(
    "body_", [b"{}", b"[]", b"", b'{"candidates":[]}', b'{"candidates":[{"content":{"parts":"x"}}]}']
)
def test_an_answer_without_an_answer_is_an_error(body_: bytes) -> None:
    adapter = adapter_for(target("google"), "id", 1, False)
    adapter.feed(body_)
    final = adapter.finish()
    assert final.error is not None
    assert final.error.code == "provider_error"


def test_an_answer_without_usage_tells_none_so_that_it_is_estimated() -> None:
    adapter = adapter_for(target("google"), "id", 1, False)
    adapter.feed(answer("STOP", {"text": "x"}))
    final = adapter.finish()
    assert (final.usage, final.complete) == (None, True)
    assert not [chunk for chunk in final.chunks if "usage" in chunk]


def test_traps_11_13_usage_counts_thoughts_and_tool_prompts() -> None:
    counts = {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 60,
        "toolUsePromptTokenCount": 5,
        "candidatesTokenCount": 10,
        "thoughtsTokenCount": 20,
        "totalTokenCount": 135,
    }
    adapter = adapter_for(target("google"), "id", 1, False)
    adapter.feed(answer("STOP", {"text": "x"}, usageMetadata=counts))
    expected = Usage(input_tokens=105, output_tokens=30, cached_tokens=60, reasoning_tokens=20)
    assert adapter.finish().usage == expected
    assert expected.input_tokens + expected.output_tokens == counts["totalTokenCount"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("parallel", "expected"), [(None, ["a", "b"]), (True, ["a", "b"]), (False, ["a"])])
def test_a_client_that_takes_one_call_gets_the_first(stream: bool, parallel: bool | None, expected: list[str]) -> None:
    """LangChain's structured output by function calling always asks for that; Google has no word for it."""
    chat = parse_chat(
        json.dumps(
            {"model": "m", "messages": HELLO, "tools": [WEATHER], "stream": stream}
            | ({} if parallel is None else {"parallel_tool_calls": parallel})
        ).encode()
    )
    adapter = adapter_for(target("google"), "id", 1, stream)
    adapter.request(chat)
    calls = [answer(None, {"functionCall": {"name": "a"}}, {"functionCall": {"name": "b"}}), answer("STOP")]
    chunks = [chunk for each in calls for chunk in adapter.feed(b"data: " + each + b"\n\n")] if stream else []
    if not stream:
        adapter.feed(answer("STOP", {"functionCall": {"name": "a"}}, {"functionCall": {"name": "b"}}))
    choice = fold(chunks, adapter.finish())["choices"][0]
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == expected
    assert choice["finish_reason"] == "tool_calls"


def test_thoughts_are_not_the_answer() -> None:
    adapter = adapter_for(target("google"), "id", 1, False)
    adapter.feed(answer("STOP", {"text": "hm", "thought": True}, {"text": "x"}))
    assert fold([], adapter.finish())["choices"][0]["message"]["content"] == "x"


def test_hello() -> None:
    assert body("google", messages=HELLO) == {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
