"""Members changed in an object's text: what it means is as if decoded, changed and encoded; all other bytes stay."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.body.members import members as places
from extproc.body.pieces import LONG_BYTES, Pieces
from extproc.body.splice import DROP, spliced

NAMES = st.sampled_from(["model", "messages", "metadata", "stream", "stream_options", "n", "", "ключ", 'with "quotes"'])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=6)
PADDING = b" " * LONG_BYTES
CHANGES = st.dictionaries(NAMES, st.one_of(VALUES, st.just(DROP)), max_size=3)
SPACE = st.text(" \t\r\n", max_size=2)


def written(members: list[tuple[str, Any]], space: Callable[[], str], ascii_only: bool) -> bytes:
    """An object's text with white space wherever it may be, and strings escaped or not."""
    pairs = [
        f"{space()}{json.dumps(name, ensure_ascii=ascii_only)}{space()}:{space()}"
        f"{json.dumps(value, ensure_ascii=ascii_only)}{space()}"
        for name, value in members
    ]
    return f"{space()}{{{','.join(pairs) or space()}}}{space()}".encode()


def changed(given_: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**given_, **changes}.items() if value is not DROP}


def parts(text: bytes) -> dict[str, bytes]:
    return {name: bytes(raw) for name, raw in msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items()}


@given(OBJECTS, CHANGES, st.data(), st.booleans())
def test_it_means_what_it_should_and_the_rest_is_untouched(
    members: dict[str, Any], changes: dict[str, Any], data: st.DataObject, ascii_only: bool
) -> None:
    text = written(list(members.items()), lambda: data.draw(SPACE), ascii_only)
    result = spliced(text, changes)
    assert spliced(text, changes, places(text, msgspec.json.decode(text, type=dict[str, msgspec.Raw]))) == result
    long = spliced(text + PADDING, changes)
    assert long == result if result is None else bytes(long or b"") == bytes(result) + PADDING
    if result is None:
        return  # to be encoded anew; `test_plain_requests_are_spliced` says when it must not be
    result = bytes(result)
    assert json.loads(result) == changed(members, changes)
    before, after = parts(text), parts(result)
    assert {name: after[name] for name in members if name not in changes} == {
        name: before[name] for name in members if name not in changes
    }
    if not changes.keys() & members.keys() and all(value is DROP for value in changes.values()):
        assert result == text


@given(st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=6), CHANGES, st.data())
def test_a_name_twice_is_never_spliced_into_something_else(
    members: list[tuple[str, Any]], changes: dict[str, Any], data: st.DataObject
) -> None:
    text = written(members, lambda: data.draw(SPACE), False)
    result = spliced(text, changes)
    assert result is None or json.loads(bytes(result)) == changed(dict(members), changes)
    if len(dict(members)) < len(members):
        assert result is None


@given(st.binary(max_size=40), CHANGES)
def test_what_is_no_object_is_left_alone(text: bytes, changes: dict[str, Any]) -> None:
    result = spliced(text, changes)
    assert result in (text, None) or isinstance(json.loads(text), dict)


def test_a_long_text_is_not_copied() -> None:
    text = b'{"model":"a","x":"' + b"x" * LONG_BYTES + b'"}'
    result = spliced(text, {"model": "bb"})
    assert isinstance(result, Pieces)
    assert bytes(result) == text.replace(b'"a"', b'"bb"')
    assert [part.obj is text for part in result.parts if isinstance(part, memoryview)] == [True, True]
    assert len(result) == len(text) + 1


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        (b'{"model":"a","n":1.0}', {"model": "b"}, b'{"model":"b","n":1.0}'),
        (b'{ "model" : "a" ,\n "n": 1e5 }', {"model": "b"}, b'{ "model" : "b" ,\n "n": 1e5 }'),
        (b'{"model":"a"}', {"n": {"x": True}}, b'{"model":"a","n":{"x":true}}'),
        (b'{"metadata":{}, "model":"a"}', {"metadata": DROP}, b'{"model":"a"}'),
        (b'{"model":"a", "metadata":{} }', {"metadata": DROP, "model": "b"}, b'{"model":"b" }'),
        (b'{"a":1,"metadata":2,"b":3}', {"metadata": DROP, "a": 4}, b'{"a":4,"b":3}'),
        (b'{"metadata":2}', {"metadata": DROP}, b"{}"),
        (b'{"a":1,"metadata":2}', {"metadata": DROP, "b": 3}, b'{"a":1,"b":3}'),
        (b'{"metadata":2,"a":1}', {"metadata": DROP, "b": 3}, b'{"a":1,"b":3}'),
        (b'{"model":"\\u0041\\ud83d\\ude00","x":{"model":"a"}}', {"model": "b"}, b'{"model":"b","x":{"model":"a"}}'),
        (b'{"mod\\u0065l":"a"}', {"model": "b"}, None),
        (b'{"a":1,"a":22}', {"a": 3}, None),
        (b'{"a":1,"a":22}', {}, None),
        (b'{"a":1, "b":22 }', {}, b'{"a":1, "b":22 }'),
    ],
)  # fmt: skip
def test_plain_requests_are_spliced(text: bytes, changes: dict[str, Any], expected: bytes | None) -> None:
    assert spliced(text, changes) == expected
