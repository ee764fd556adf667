"""Reading a client's body: what is refused, by which name, and what passes."""

import json
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from extproc.chat import (
    LARGE_BYTES,
    GatewayMetadata,
    client_metadata,
    encoded,
    gateway_metadata,
    messages,
    parse_chat,
    prompt_hash,
    read_chat,
    text_chars,
)
from extproc.errors import InvalidRequest

HELLO = [{"role": "user", "content": "Hello"}]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": HELLO, **fields}).encode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"model":"m","messages":[{"role":"user","content":NaN}]}', "not valid JSON"),
        (b'{"model":"m","seed":' + b"1" * 5000 + b"}", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"model":"\xff"}', "not valid UTF-8"),
        (b'{"model":"\xed\xa0\x80"}', "not valid UTF-8"),
        (rb'{"model":"\ud800"}', "surrogate"),
        (rb'{"model":"\udc00 and more"}', "surrogate"),
        (rb'{"model":"\ud83d\ud83d\ude00"}', "surrogate"),
    ],
)
def test_what_is_no_json_object_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        parse_chat(data)
    assert caught.value.http_status == 400


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),  # trap 40
    ({"model": ""}, "model"),
    ({"model": 7}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": None}]}, "messages[0].role"),
    ({"messages": [*HELLO, {"role": "user", "content": 5}]}, "messages[1].content"),
    ({"messages": [{"role": "user", "content": {"type": "text"}}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "assistant", "tool_calls": "x"}]}, "messages[0].tool_calls"),
    ({"stream": "yes"}, "stream"),
    ({"stream": 1}, "stream"),
    ({"stream_options": []}, "stream_options"),
    ({"stream_options": {"include_usage": "true"}}, "stream_options.include_usage"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": True}, "n"),
    ({"n": "2"}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"temperature": "hot"}, "temperature"),
    ({"stop": 3}, "stop"),
    ({"stop": ["a", 3]}, "stop[1]"),
    ({"tools": {}}, "tools"),
    ({"tools": [{"function": {}}]}, "tools[0].type"),
    ({"tool_choice": 1}, "tool_choice"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ({"response_format": "json"}, "response_format"),
    ({"reasoning_effort": 3}, "reasoning_effort"),
    ({"metadata": "x"}, "metadata"),
    ({"user": 5}, "user"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=[json.dumps(fields)[:60] for fields, _ in REFUSED])
def test_a_wrong_type_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(body(**fields))
    assert caught.value.param == param
    assert param in caught.value.message


@pytest.mark.parametrize("name", ["model", "messages"])
def test_what_is_missing_is_named(name: str) -> None:
    data = {"model": "m", "messages": HELLO}
    del data[name]
    with pytest.raises(InvalidRequest, match="is required") as caught:
        parse_chat(json.dumps(data).encode())
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"max_tokens": "5"}, "max_tokens: expected integer or null, got string."),
        ({"n": 0}, "n: expected integer >= 1."),
        ({"stream": 1}, "stream: expected boolean or null, got integer."),
        ({"temperature": "hot"}, "temperature: expected number or null, got string."),
        ({"messages": []}, "messages: expected array of length >= 1."),
        ({"messages": [{"content": "x"}]}, "messages[0].role is required."),
    ],
)
def test_it_is_told_in_the_words_of_json(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(body(**fields))
    assert caught.value.message == told


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": None},
        {"role": "user"},
        {"role": "user", "content": []},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "user", "content": [{"type": "hologram", "hologram": {"a": [1]}}]},
        {"role": "oracle", "content": "x", "extra": {"a": 1}},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "custom", "custom": {}}]},
        {"role": "assistant", "content": None, "tool_calls": None},
    ],
    ids=json.dumps,
)
def test_trap_40_legal_content_and_what_we_do_not_know_pass(message: dict[str, Any]) -> None:
    chat = parse_chat(body(messages=[message], brand_new={"x": None}))
    assert chat.body == {"model": "m", "messages": [message], "brand_new": {"x": None}}


def test_what_is_read() -> None:
    chat = parse_chat(body(stream=True, stream_options={"include_usage": True}, n=3, max_tokens=5))
    assert (chat.model, chat.stream, chat.include_usage, chat.n, chat.max_tokens) == ("m", True, True, 3, 5)


def test_nulls_are_defaults() -> None:
    chat = parse_chat(
        body(stream=None, stream_options=None, n=None, max_tokens=None, metadata=None, stop=None, tools=None)
    )
    assert (chat.stream, chat.include_usage, chat.n, chat.max_tokens) == (False, False, 1, None)
    assert gateway_metadata(chat) == GatewayMetadata()


def test_the_newer_name_of_the_limit_wins() -> None:
    assert parse_chat(body(max_tokens=5, max_completion_tokens=9)).max_tokens == 9


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(repr).map(str.encode)
)
def test_no_body_raises_anything_else(data: bytes) -> None:
    with suppress(InvalidRequest):
        parse_chat(data)


@given(
    st.dictionaries(
        st.sampled_from(["model", "messages", "stream", "n", "metadata", "tools", "stop", "content", "role"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "priority"]), inner, max_size=3)
            ),
            max_leaves=6,
        ),
    )
)
def test_no_object_raises_anything_else(fields: dict[str, Any]) -> None:
    with suppress(InvalidRequest):
        chat = parse_chat(json.dumps(fields).encode())
        prompt_hash(chat)
        text_chars(chat)
        gateway_metadata(chat)
        messages(chat)


def test_a_large_integer_passes_unchanged() -> None:
    chat = parse_chat(body(seed=10**30))
    assert json.loads(encoded(chat.body))["seed"] == 10**30


def test_what_could_just_be_read_but_not_written_is_refused_not_a_crash() -> None:
    depth = 100_000  # more than any Python bears
    while depth:
        try:
            chat = parse_chat(b'{"model":"m","messages":[{"role":"user"}],"x":' + b"[" * depth + b"]" * depth + b"}")
            break
        except InvalidRequest:
            depth -= 10
    deeper: object = chat.body
    for _ in range(50):
        deeper = [deeper]
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        encoded(deeper)


def test_the_prompt_hash_is_of_the_conversation_alone() -> None:
    first = prompt_hash(parse_chat(b'{"model":"a","messages":[{"role":"user","content":"x"}]}'))
    same = prompt_hash(parse_chat(b'{"messages" : [ {"content":"x", "role":"user"} ], "model":"b", "n":2}'))
    other = prompt_hash(parse_chat(b'{"model":"a","messages":[{"role":"user","content":"y"}]}'))
    assert first == same != other
    assert len(first) == 64


LONG = "l" * LARGE_BYTES


@pytest.mark.parametrize(
    "data",
    [
        body(messages=[{"role": "user", "content": LONG}], metadata={"user": LONG}, n=2, stream=True, max_tokens=7),
        body(metadata={"a": LONG}, unknown=[1, {"deep": [None]}]),
        b'{"model": "first", "x": "%b", "messages": [{"role": "user"}], "model": "m"}' % LONG.encode(),
        body(user=LONG) + b"  ",
        body(
            messages=[{"role": "user", "content": LONG}], x=0, stop=["]", "a"], tools=[{"type": "function", "n": LONG}]
        ),
        body(user=LONG) + b"}",
        body(user=LONG)[:-1],
        body(user=LONG, messages=None),
        json.dumps({"model": "m", "user": LONG}).encode(),
        b'["%b"]' % LONG.encode(),
        body(user=LONG).replace(b'l"', b'\xff"'),
        body(user=LONG).replace(b'l"', rb"\ud800" + b'"'),
        body(user=LONG, x=0).replace(b": 0", b": " + b"[" * 100_000),
        body(user=LONG, x=0).replace(b": 0", b": 01"),
    ],
    ids=range(14),
)
async def test_a_large_body_is_read_as_any_other(data: bytes) -> None:
    outcomes = []
    for read in (parse_chat, read_chat):
        try:
            found = read(data)
            chat = await found if isinstance(found, Coroutine) else found
        except InvalidRequest as error:
            outcomes.append((error.message, error.param))
        else:
            assert (chat.large is None) == (read is parse_chat)
            outcomes.append(msgspec.structs.replace(chat, large=None))
    assert outcomes[0] == outcomes[1]


async def test_a_large_conversation_is_hashed_as_it_was_sent() -> None:
    spaced = body(messages=[{"role": "user", "content": LONG}])
    first, other = await read_chat(spaced), await read_chat(spaced.replace(b'": ', b'":'))
    more = await read_chat(body(messages=[{"role": "user", "content": LONG}], n=2))
    assert prompt_hash(first) == prompt_hash(more) != prompt_hash(other)
    sent = msgspec.json.decode(spaced, type=dict[str, msgspec.Raw])["messages"]
    assert prompt_hash(first) == blake3(bytes(sent)).hexdigest()


def test_text_is_counted_in_every_form_of_content() -> None:
    chat = parse_chat(
        body(
            messages=[
                {"role": "system", "content": "abc"},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "de"}, {"type": "image_url", "image_url": {"url": "x"}}],
                },
                {"role": "assistant", "content": None},
            ]
        )
    )
    assert text_chars(chat) == 5


def test_the_gateways_metadata() -> None:
    given_ = {
        "team_id": "t",
        "priority": "high",
        "bypass_cache": True,
        "routing": "cost",
        "fallback": False,
        "trace": "x",
    }
    chat = parse_chat(body(metadata=given_))
    assert gateway_metadata(chat) == GatewayMetadata("t", "high", True, "cost", False)
    assert client_metadata(chat) == {"trace": "x"}


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("False", False)])
def test_flags_may_be_strings_for_openai_metadata_is_of_strings(text: str, value: bool) -> None:
    found = gateway_metadata(parse_chat(body(metadata={"bypass_cache": text, "fallback": text})))
    assert (found.bypass_cache, found.fallback) == (value, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("priority", "urgent"),
        ("priority", 1),
        ("priority", []),
        ("team_id", 5),
        ("bypass_cache", "maybe"),
        ("fallback", 0),
        ("routing", {}),
    ],
)
def test_a_wrong_metadata_value_is_refused_by_its_name(key: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        gateway_metadata(parse_chat(body(metadata={key: value})))
    assert caught.value.param == f"metadata.{key}"


def test_metadata_that_was_all_ours_leaves_nothing() -> None:
    assert client_metadata(parse_chat(body(metadata={"team_id": "t"}))) is None
    assert client_metadata(parse_chat(body())) is None


def test_the_hash_of_a_long_prompt_is_of_the_conversation_alone_too() -> None:
    long = {"messages": [{"role": "user", "content": "x" * 300_000}]}
    first, same, other = (
        prompt_hash(parse_chat(json.dumps(fields).encode()))
        for fields in (
            {"model": "a", **long},
            {**long, "model": "b", "n": 2},
            {"model": "a", "messages": [{"role": "user", "content": "y" * 300_000}]},
        )
    )
    assert first == same != other
