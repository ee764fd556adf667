"""Where a large request's conversation lies: found from both ends, it is where reading all of it says."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.body.members import Parted, parted, scanned

SPACE = st.text(" \t\r\n", max_size=2)
NASTY = st.sampled_from(['],"', '"]}', "]}", '],"messages":[', '"messages":[', "\\", '\\"', "é", "]"])
TEXTS = st.lists(NASTY | st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=4).map("".join)
VALUES = st.recursive(
    st.none() | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.just("messages"), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["messages", "messages", "model", "tools", "metadata", "é"]) | TEXTS
MEMBERS = st.lists(st.tuples(NAMES, VALUES), max_size=5)


def written(members: list[tuple[str, Any]], data: st.DataObject, *, ascii_only: bool) -> bytes:
    def space() -> str:
        return data.draw(SPACE)

    pairs = [
        f"{space()}{json.dumps(name, ensure_ascii=ascii_only)}{space()}:{space()}"
        f"{json.dumps(value, ensure_ascii=ascii_only, separators=data.draw(SEPARATORS))}{space()}"
        for name, value in members
    ]
    return f"{space()}{{{','.join(pairs)}}}{space()}".encode()


SEPARATORS = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :")])


def held(text: bytes) -> Parted | None:
    """What is found by place, where its conversation can be decoded; it must be what is found by reading all."""
    try:
        found = parted(text)
        conversation = found and msgspec.json.decode(found.messages)
    except ValueError:
        return None
    if found is None:
        return None
    whole = scanned(text)
    assert found.members is not None
    assert found.members == whole.members
    assert bytes(found.messages) == bytes(whole.messages)
    assert list(found.rest) == list(whole.rest)
    assert {**found.rest, "messages": conversation} == msgspec.json.decode(text)
    return found


@given(MEMBERS, st.data(), st.booleans())
def test_what_is_found_by_place_is_what_is_found_by_reading(
    members: list[tuple[str, Any]], data: st.DataObject, ascii_only: bool
) -> None:
    held(written(members, data, ascii_only=ascii_only))


@given(MEMBERS, st.data(), st.integers(0, 200), st.sampled_from(['"', "]", "}", ",", "[", "\\", '],"a":1}', "\xff"]))
def test_text_that_is_no_object_is_never_taken_for_one(
    members: list[tuple[str, Any]], data: st.DataObject, at: int, odd: str
) -> None:
    text = written(members, data, ascii_only=False)
    text = text[:at] + odd.encode("latin-1") + text[at:]
    if held(text) is not None:
        assert isinstance(msgspec.json.decode(text), dict)


CONVERSATION = [
    {"role": "user", "content": [{"type": "text", "text": '],"x":1}'}], "name": "n"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"arguments": '{"a":[1]}'}}]},
]
TOOLS = [{"type": "function", "function": {"parameters": {"required": ["a"], "enum": [[]]}}}] * 5


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "request_",
    [
        {"model": "m", "messages": CONVERSATION},
        {"messages": CONVERSATION, "model": "m", "stop": ["a", "b"]},
        {"tools": TOOLS, "messages": CONVERSATION, "model": "m"},
        {"model": "m", "messages": CONVERSATION, "tools": TOOLS, "stop": ["]"], "metadata": {"a": "],"}},
        {"messages": [], "model": "m"},
    ],
)
def test_requests_as_they_are_written_are_found_by_place(request_: dict[str, Any], indent: int | None) -> None:
    assert held(json.dumps(request_, indent=indent).encode())
    assert held(json.dumps(request_, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    "text",
    [
        b'{"messages":[1],"messages":[2]}',
        b'{"messages":[1],"a":1,"a":2}',
        b'{"messages":[1],"\\u0061":[2]}',
        b'{"metadata":{"messages":[1]},"messages":2}',
        b'{"messages":"[]"}',
        b'["messages"]',
        b"",
    ],
)
def test_what_is_not_sure_is_not_found(text: bytes) -> None:
    assert held(text) is None


@pytest.mark.parametrize("name", ["before", "tools"])
def test_what_lies_among_much_else_is_found_by_reading(name: str) -> None:
    much = {name: ["x" * 70_000]}
    request = {**much, "messages": CONVERSATION} if name == "before" else {"messages": CONVERSATION, **much}
    text = json.dumps(request).encode()
    assert held(text) is None
    assert json.loads(bytes(scanned(text).messages)) == CONVERSATION
