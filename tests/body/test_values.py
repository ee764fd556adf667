"""Values of a JSON text: counted as they are, and too many found out by samples."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.body.values import MOST, more_than, too_many

NASTY = st.sampled_from([",", "[", "{", '"', "\\", '\\"', "\\\\", "é", '","'])
TEXTS = st.lists(NASTY, max_size=5).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def marks(value: Any) -> int:
    """Commas and openings, of the value's own."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(0, len(inner) - 1) + sum(map(marks, inner))


@given(JSON, st.booleans(), st.sampled_from([(",", ":"), (" ,\n", " : ")]))
def test_what_strings_hold_is_not_counted(value: Any, ascii_only: bool, separators: tuple[str, str]) -> None:
    value = [value]
    text = json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode()
    assert not more_than(marks(value), text)
    assert more_than(marks(value) - 1, text)


@pytest.mark.parametrize("text", [b'"', b'"\\', b'"' + b'\\"' * 100_000, b"\\" * 9, b'"a", "' + b'\\"' * 100_000])
def test_strings_without_an_end_are_read_once(text: bytes) -> None:
    assert not more_than(1, text)


UNITS = {
    "objects": "{},",
    "arrays": "[ ] ,\n",
    "numbers": "0, ",
    "texts": '"é",',
    "members": '"k":null,',
    "parts": '{"type": "text", "text": "a"},',
}


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_too_many_are_found_wherever_they_are(unit: str) -> None:
    text = '{"messages": [{"content": "' + "a" * 1_000_000 + '"}], "more": [' + unit * (MOST + 100_000)
    assert too_many(text.encode())


HELD = {
    "prose": "One, two, [three] and {four}: 5, 6, 7. ",
    "code": 'for (i = 0, j = 1; i < n; i++) { a[i] = f("x", {}, []); }\n',
    "JSON": json.dumps({"a": [1, True, {"b": ["c", "d"]}], "e": {}}),
    "numbers": "1,2,3,4\n",
    "日本語": "日本語の、テキスト。",
}


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
def test_a_long_text_is_one_value(held: str) -> None:
    content = held * (4 * MOST // len(held) + 1)
    assert not too_many(json.dumps({"messages": [{"role": "user", "content": content}]}).encode())


def test_what_just_fits_may_pass() -> None:
    assert not too_many(b"[" + b"[]," * (MOST // 2 - 1) + b"0]")
    assert not too_many(b"[" + b"0," * (MOST // 2) + b"0]")
