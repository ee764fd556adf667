"""Pass-through: what is changed on the way to and from OpenAI's format, and that nothing else is."""

import json
from typing import Any

import msgspec
import pytest

from extproc.adapters.emit import ClientStream
from extproc.adapters.fold import fold
from extproc.adapters.registry import adapter_for
from extproc.chat import parse_chat
from extproc.errors import InvalidRequest
from extproc.records import ChatRequest

from .asking import HELLO, ask, body, target
from .cases import events


def test_path_and_headers() -> None:
    assert ask("openai").path == ask("azure").path == "/chat/completions"
    assert dict(ask("openai").headers) == {"content-type": "application/json"}


def test_unknown_fields_survive() -> None:
    odd: dict[str, Any] = {
        "x": [1, {"y": None}],
        "messages": [{"role": "user", "content": [{"type": "hologram", "z": 1}], "q": 2}],
    }
    assert body("openai", **odd) == {"model": "gpt-4o", **odd}


def test_the_clients_body_is_never_changed() -> None:
    data = {"model": "the-model", "messages": HELLO, "stream": True, "metadata": {"team_id": "t"}, "max_tokens": 5}
    chat = parse_chat(json.dumps(data).encode())
    adapter_for(target("openai"), "id", 1, True).request(msgspec.structs.replace(chat, max_tokens=3))
    assert chat.body == data


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"team_id": "t", "priority": "low", "bypass_cache": True, "routing": "x", "fallback": False}, None),
        ({"team_id": "t", "trace": "1"}, {"trace": "1"}),
        ({"trace": "1"}, {"trace": "1"}),
        ({}, None),
    ],
)
def test_the_gateways_metadata_stays_here(metadata: Any, expected: Any) -> None:
    assert body("openai", metadata=metadata).get("metadata") == expected


@pytest.mark.parametrize(
    ("fields", "limit", "expected"),
    [
        ({}, None, {}),
        ({}, 7, {"max_completion_tokens": 7}),
        ({"max_tokens": 9}, 7, {"max_tokens": 7}),
        ({"max_completion_tokens": 9}, 7, {"max_completion_tokens": 7}),
        ({"max_tokens": None}, 7, {"max_tokens": None, "max_completion_tokens": 7}),
        # OpenAI refuses both; of others some go by one, some by the other, and 9 tokens are held.
        ({"max_tokens": 10**6, "max_completion_tokens": 9}, 9, {"max_tokens": 9, "max_completion_tokens": 9}),
    ],
)
def test_a_limit_of_the_gateways_is_written_where_the_client_wrote_its_own(
    fields: Any, limit: Any, expected: Any
) -> None:
    chat = parse_chat(json.dumps({"model": "m", "messages": HELLO, **fields}).encode())
    chat = msgspec.structs.replace(chat, max_tokens=limit)
    sent = json.loads(adapter_for(target("openai"), "id", 1, False).request(chat).body)
    assert {name: sent[name] for name in ("max_tokens", "max_completion_tokens") if name in sent} == expected


def test_trap_9_stream_options_go_only_with_a_stream_and_keep_the_clients() -> None:
    assert "stream_options" not in body("openai")
    assert body("openai", stream=True)["stream_options"] == {"include_usage": True}
    asked = {"include_obfuscation": False, "include_usage": False}
    expected = {"include_obfuscation": False, "include_usage": True}
    assert body("openai", stream=True, stream_options=asked)["stream_options"] == expected


@pytest.mark.parametrize(
    ("unsupported", "fields", "expected"),
    [
        (["stream_options"], {"stream": True}, {"stream": True}),
        (["stream_options"], {"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}),
        (["max_completion_tokens"], {"max_completion_tokens": 9}, {"max_tokens": 9}),
        (["max_completion_tokens"], {"max_completion_tokens": None, "max_tokens": 9}, {"max_tokens": 9}),
        (["max_completion_tokens"], {"max_tokens": 9}, {"max_tokens": 9}),
        (["max_tokens"], {"max_tokens": 9}, {"max_completion_tokens": 9}),
        (["max_tokens", "seed"], {"max_tokens": 9, "seed": None}, {"max_completion_tokens": 9}),
        (["store", "user"], {"seed": 1, "store": True}, {"seed": 1}),
        (["logprobs"], {"logprobs": False}, {}),
        (["temperature", "top_p"], {"temperature": 1, "top_p": 1.0}, {}),
    ],
)
def test_trap_9_what_a_server_refuses_is_said_otherwise(unsupported: list[str], fields: Any, expected: Any) -> None:
    sent = body("openai", to={"unsupported": frozenset(unsupported)}, **fields)
    assert sent == {"model": "gpt-4o", "messages": HELLO} | expected


def test_developer_messages_are_the_systems_where_the_server_knows_no_others() -> None:
    messages = [{"role": "developer", "content": "Be brief.", "name": "d"}, *HELLO, {"role": "system", "content": "x"}]
    sent = body("openai", to={"unsupported": frozenset({"developer"})}, messages=messages)["messages"]
    assert sent == [{"role": "system", "content": "Be brief.", "name": "d"}, *HELLO, {"role": "system", "content": "x"}]
    assert body("openai", messages=messages)["messages"] == messages


LEFT_BEHIND = frozenset({"reasoning_content", "cache_control"})


def test_what_others_have_left_in_messages_is_not_sent_where_it_is_refused() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    said = [
        {"role": "user", "content": [{"type": "text", "text": "x", **mark}], **mark},
        {"role": "assistant", "content": "y", "reasoning_content": "hm", "annotations": [], "refusal": None},
        {"role": "assistant", "content": "y", "annotations": [{"type": "url_citation"}]},
        {"role": "tool", "tool_call_id": "1", "content": "z", **mark},
    ]
    tools = [{"type": "function", "function": {"name": "f"}}]
    asked = {"messages": said, "tools": [{**tools[0], **mark}]}
    assert body("openai", **asked) == {"model": "gpt-4o", **asked}
    assert body("openai", to={"unsupported": LEFT_BEHIND}, **asked) == {
        "model": "gpt-4o",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            {"role": "assistant", "content": "y"},
            {"role": "assistant", "content": "y", "annotations": [{"type": "url_citation"}]},
            {"role": "tool", "tool_call_id": "1", "content": "z"},
        ],
        "tools": tools,
    }


def test_messages_in_which_nothing_was_left_stay_as_they_are_written() -> None:
    text = b'{"model":"gpt-4o",  "messages": [{"role": "user",\t"content": [{"type": "text", "text": "x"}]}]}'
    to = target("openai", unsupported=LEFT_BEHIND)
    assert adapter_for(to, "id", 1, False).request(parse_chat(text)).body == text


def test_a_limit_of_the_gateways_has_the_name_that_the_server_takes() -> None:
    chat = parse_chat(json.dumps({"model": "m", "messages": HELLO}).encode())
    to = target("openai", unsupported=frozenset({"max_completion_tokens"}))
    sent = json.loads(adapter_for(to, "id", 1, False).request(msgspec.structs.replace(chat, max_tokens=7)).body)
    assert sent == {"model": "gpt-4o", "messages": HELLO, "max_tokens": 7}


@pytest.mark.parametrize(
    ("unsupported", "fields", "named"),
    [
        ("seed", {"seed": 1}, "seed"),
        ("logprobs", {"logprobs": True}, "logprobs"),
        ("temperature", {"temperature": 0}, "temperature"),
        (
            "stream_options",
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
    ],
)
def test_what_a_server_refuses_and_nothing_else_says_is_a_400(unsupported: str, fields: Any, named: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        body("openai", to={"unsupported": frozenset({unsupported})}, **fields)
    assert refused.value.param == named


CHUNK: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "up", "choices": []}
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def choice(content: str, finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": {"content": content}, "finish_reason": finish}


def streamed(*found: Any, include_usage: bool = False, done: bool = True) -> list[Any]:
    client = ClientStream(adapter_for(target("openai"), "id", 1, True), include_usage=include_usage)
    data = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in found) + ("data: [DONE]\n\n" if done else "")
    return events(client.feed(data.encode()) + client.finish()[0])


SHAPES = {
    "a chunk of its own": [{**CHUNK, "choices": [choice("Hi", "stop")], "usage": None}, {**CHUNK, "usage": USAGE}],
    "on the last chunk": [{**CHUNK, "choices": [choice("Hi", "stop")], "usage": USAGE}],
    "on every chunk": [
        {**CHUNK, "choices": [choice("Hi")], "usage": {**USAGE, "completion_tokens": 1}},
        {**CHUNK, "choices": [choice("", "stop")], "usage": USAGE},
    ],
    "without choices": [{**CHUNK, "choices": [choice("Hi", "stop")]}, {"id": "c", "usage": USAGE}],
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_traps_7_8_usage_wherever_it_was_is_one_chunk_for_those_who_asked(shape: list[Any]) -> None:
    asked = streamed(*shape, include_usage=True)
    assert asked.pop() == "[DONE]"
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"] == USAGE
    assert [event["usage"] for event in asked[:-1]] == [None] * (len(asked) - 1)
    unasked = streamed(*shape)
    assert unasked.pop() == "[DONE]"
    assert not any("usage" in event for event in unasked)
    assert [event["choices"] for event in unasked] == [event["choices"] for event in asked[:-1]]


def test_trap_8_without_usage_upstream_there_is_none_to_give() -> None:
    found = streamed({**CHUNK, "choices": [choice("Hi", "stop")]}, include_usage=True)
    assert found[-1] == "[DONE]"
    assert [event["usage"] for event in found[:-1]] == [None]


def test_chunks_keep_what_we_do_not_know() -> None:
    odd = {**CHUNK, "choices": [{**choice("Hi", "stop"), "odd": [1]}], "odd": {"a": None}, "system_fingerprint": None}
    assert streamed(odd)[0] == {**odd, "model": "the-model"}


def test_trap_7_what_azure_says_of_the_prompt_goes_with_the_first_words() -> None:
    """Its first chunk has no choices, those of its asynchronous filter no delta: clients break on either."""
    told = {"prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]}
    offsets = {"content_filter_offsets": {"check_offset": 44}}
    azures = {"id": "", "object": "", "created": 0, "model": ""}
    said = streamed(
        {"choices": [], **azures, **told, "usage": None},
        {**CHUNK, "choices": [choice("Hi")]},
        {"choices": [{"index": 0, "finish_reason": None, **offsets}], **azures},
        {**CHUNK, "choices": [choice("", "stop")]},
    )
    assert [[each["delta"] for each in event["choices"]] for event in said[:-1]] == [
        [{"content": "Hi"}],
        [{}],
        [{"content": ""}],
    ]
    assert (said[0]["prompt_filter_results"], said[0]["id"]) == (told["prompt_filter_results"], "c")
    assert said[1]["choices"][0]["content_filter_offsets"] == offsets["content_filter_offsets"]


def test_trap_17_what_is_no_chunk_is_not_passed_on() -> None:
    assert streamed({"type": "ping"}, {**CHUNK, "choices": [choice("Hi", "stop")]}) == [
        {**CHUNK, "choices": [choice("Hi", "stop")], "model": "the-model"},
        "[DONE]",
    ]


def test_trap_19_all_choices_finished_is_complete_without_done() -> None:
    two = [{**CHUNK, "choices": [{**choice("a", "stop"), "index": index}]} for index in (0, 1)]
    chat = parse_chat(json.dumps({"model": "m", "messages": HELLO, "n": 2, "stream": True}).encode())
    for sent, complete in ((two, True), (two[:1], False)):
        adapter = adapter_for(target("openai"), "id", 1, True)
        adapter.request(chat)
        adapter.feed("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in sent).encode())
        assert adapter.finish().complete is complete


@pytest.mark.parametrize(
    "chunk",
    [
        "[]",
        "1",
        '"x"',
        "null",
        '{"choices":1}',
        '{"choices":[1]}',
        '{"choices":[{"index":[]}]}',
        '{"choices":[{"delta":3}]}',
    ],
)
def test_a_chunk_of_the_wrong_shape_ends_the_stream_with_an_error(chunk: str) -> None:
    client = ClientStream(adapter_for(target("openai"), "id", 1, True), include_usage=False)
    first = json.dumps({**CHUNK, "choices": [choice("Hi")]})
    found = events(client.feed(f"data: {first}\n\ndata: {chunk}\n\ndata: [DONE]\n\n".encode()) + client.finish()[0])
    assert len(found) == 2
    assert found[1]["error"]["code"] == "provider_error"


@pytest.mark.parametrize("text", [r"\ud83d", r"\ude00 x", r"\\ud83d", r"\ud83d\ude00"])
def test_half_a_surrogate_pair_is_mended_not_fatal(text: str) -> None:
    chunk = json.dumps({**CHUNK, "choices": [choice("@", "stop")]}).replace("@", text)
    client = ClientStream(adapter_for(target("openai"), "id", 1, True), include_usage=False)
    found = events(client.feed(f"data: {chunk}\n\n".encode()) + client.finish()[0])
    expected = json.loads(f'"{text}"').encode("utf-8", "replace").decode().replace("?", "\ufffd")
    assert found[0]["choices"][0]["delta"]["content"] == expected


def whole(completion: Any) -> Any:
    adapter = adapter_for(target("openai"), "id", 1, False)
    chunks = adapter.feed(json.dumps(completion).encode())
    final = adapter.finish()
    return fold(chunks, final) if final.error is None else final.error


def test_a_whole_answer_comes_back_as_it_was() -> None:
    completion = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "up",
        "odd": None,
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "logprobs": None,
                "message": {
                    "role": "assistant",
                    "content": {"an": "object"},
                    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                    "reasoning_content": "hm",
                    "annotations": [{"type": "url_citation"}],
                    "audio": {"id": "a", "data": "x"},
                },
            },
            {"index": 1, "finish_reason": "stop", "message": {"role": "assistant", "content": "", "tool_calls": []}},
        ],
        "usage": {**USAGE, "odd": 1},
    }
    assert whole(completion) == {**completion, "model": "the-model"}


@pytest.mark.parametrize("broken", [{}, [], {"choices": []}, {"choices": None}, {"choices": [{"message": 5}]}, "x"])
def test_a_whole_answer_of_the_wrong_shape_is_an_error(broken: Any) -> None:
    assert whole(broken).code == "provider_error"


def test_trap_20_an_error_in_a_200_is_an_error() -> None:
    error = {"message": "Rate limit", "type": "rate_limit_error", "code": "rate_limit_exceeded"}
    assert whole({"error": error}).http_status == 429
    assert streamed({"error": error})[0]["error"]["code"] == "rate_limit_exceeded"
    bare = {"object": "error", **error}
    assert whole(bare).http_status == 429
    assert streamed(bare)[0]["error"]["code"] == "rate_limit_exceeded"


def test_trap_20_a_finish_reason_that_says_error_is_one() -> None:
    """OpenRouter's, whose choice may have the error in it (hax#15)."""
    assert whole(
        {"choices": [{"message": {"content": ""}, "finish_reason": "error", "error": {"code": 429}}]}
    ).code == ("rate_limit_exceeded")
    said = streamed({**CHUNK, "choices": [choice("Hi")]}, {**CHUNK, "choices": [choice("", "error")]})
    assert [event.get("error", {}).get("code") for event in said] == [None, "provider_error"]


def test_fold_joins_a_stream() -> None:
    """Pieces of text, arguments and log probabilities grow; names do not."""
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": "He", "reasoning": "a"},
        {"content": "llo", "reasoning": "b", "role": "assistant"},
        {"tool_calls": [{"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "id": "2", "type": "function", "function": {"name": "g", "arguments": "{}"}}]},
        {"tool_calls": [{"index": 0, "type": "function", "function": {"arguments": '{"a":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
    ]
    chunks = [{**CHUNK, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks[0]["choices"][0]["logprobs"] = {"content": [1], "refusal": None}
    chunks[1]["choices"][0]["logprobs"] = {"content": [2], "refusal": None}
    chunks.append({**CHUNK, "choices": [choice("", "tool_calls")]})
    adapter = adapter_for(target("openai"), "id", 1, True)
    adapter.feed("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in [*chunks, {**CHUNK, "usage": USAGE}]).encode())
    folded = fold(chunks, adapter.finish())
    assert folded["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Hello",
                "reasoning": "ab",
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
                    {"id": "2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
                ],
            },
            "finish_reason": "tool_calls",
            "logprobs": {"content": [1, 2], "refusal": None},
        }
    ]
    assert folded["usage"]["total_tokens"] == 7


def test_a_limit_of_none_leaves_the_clients() -> None:
    chat = ChatRequest(body={"model": "m", "messages": HELLO, "max_tokens": 5}, model="m")
    assert json.loads(adapter_for(target("openai"), "id", 1, False).request(chat).body)["max_tokens"] == 5
