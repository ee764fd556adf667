"""What makes two requests the same one, and what never does."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.cache.key import MAX_TEXT_CHARS, SHARED, Key, key_of, partition_of
from extproc.chat import LARGE_BYTES, parse_chat, read_chat
from extproc.errors import InvalidRequest
from tests.cache.builders import chat, key

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SYSTEM = {"role": "system", "content": "Be brief."}


def of(messages: list[Any], **more: Any) -> Key:
    return key(**({"content": ""} | {"messages": messages} | more))


SAME = {
    "key order": ({"temperature": 0, "seed": 1}, {"seed": 1, "temperature": 0}),
    "null is absent": ({"temperature": None, "tools": None}, {}),
    "1.0 is 1": ({"temperature": 0.0, "top_p": 1.0}, {"temperature": 0, "top_p": 1}),
    "n is 1": ({"n": 1}, {}),
    "metadata": ({"metadata": {"trace": "x"}}, {}),
    "stream": ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": False}),
    "user": ({"user": "u1", "safety_identifier": "s"}, {"user": "u2"}),
}
OTHER = {
    "temperature": ({"temperature": 0.5}, {"temperature": 0.6}),
    "top_p": ({"top_p": 0.5}, {}),
    "max_tokens": ({"max_tokens": 10}, {"max_tokens": 11}),
    "n": ({"n": 2}, {}),
    "seed": ({"seed": 1}, {"seed": 2}),
    "stop": ({"stop": "a"}, {"stop": ["b"]}),
    "tools": ({"tools": [TOOL]}, {}),
    "tool_choice": ({"tools": [TOOL], "tool_choice": "auto"}, {"tools": [TOOL], "tool_choice": "none"}),
    "response_format": ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "text"}}),
    "reasoning_effort": ({"reasoning_effort": "low"}, {"reasoning_effort": "high"}),
    "logprobs": ({"logprobs": True}, {"logprobs": False}),
    "never heard of": ({"new_parameter": 1}, {"new_parameter": 2}),
    "never heard of, null": ({"new_parameter": None}, {}),
}


@pytest.mark.parametrize(("one", "two"), SAME.values(), ids=SAME)
def test_the_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert key(**one) == key(**two)


@pytest.mark.parametrize(("one", "two"), OTHER.values(), ids=OTHER)
def test_another(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert key(**one).digest != key(**two).digest
    assert key(**one).context != key(**two).context, "nor is it looked for by similarity"


def test_the_bytes_of_the_json_do_not_matter() -> None:
    spaced = b'{ "messages" : [ {"content":"h\\u0069", "role":"user"} ],\n"model":"gpt"}'
    assert key_of("p", "s", parse_chat(spaced)) == key_of("p", "s", chat("hi"))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("caf\u00e9", "cafe\u0301"),  # é in one and in two code points
        ("\ud55c", "\u1112\u1161\u11ab"),  # a Hangul syllable and its letters
        ("a\r\nb\rc", "a\nb\nc"),
        ("  hi\n", "hi"),
        ("\u00a0hi\u3000", "hi"),  # no-break and ideographic space
        ("hi", [{"type": "text", "text": "hi"}]),
    ],
)
def test_texts_that_are_the_same(one: Any, two: Any) -> None:
    assert key(one) == key(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("x\u00b2", "x2"),  # compatibility forms differ: ², ﬁ, full width, Roman numerals
        ("\ufb01ne", "fine"),
        ("\uff21", "A"),
        ("\u2163", "IV"),
        ("a b", "a  b"),
        ("def f():\n  x", "def f():\n    x"),
        ("a\nb", "a b"),
        ("Hi", "hi"),
        ("hi", "hi\u200b"),  # zero width space
        ("\u0410", "A"),  # Cyrillic
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "text", "text": "hi"}, IMAGE], "hi"),
        ([IMAGE], [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAB"}}]),
        ([IMAGE], [{"type": "image_url", "image_url": IMAGE["image_url"] | {"detail": "low"}}]),
        (
            [{"type": "input_audio", "input_audio": {"data": "AA"}}],
            [{"type": "input_audio", "input_audio": {"data": "AB"}}],
        ),
    ],
)
def test_contents_that_are_not(one: Any, two: Any) -> None:
    assert key(one).digest != key(two).digest


def test_an_assistants_white_space_counts() -> None:
    """It may be the beginning of the answer."""
    turns = [{"role": "user", "content": "Count"}, {"role": "assistant", "content": "1, "}]
    assert of(turns).digest != of([turns[0], {"role": "assistant", "content": "1,"}]).digest


def test_who_says_what_and_in_which_order() -> None:
    user, assistant = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    conversations = [
        [user],
        [SYSTEM, user],
        [user, SYSTEM],
        [{"role": "developer", "content": "Be brief."}, user],
        [user | {"name": "Ann"}],
        [user, assistant, user],
        [user, user],
        [assistant, user],
        [{"role": "user", "content": "ab"}],
    ]
    assert len({of(messages).digest for messages in conversations}) == len(conversations)


def test_halves() -> None:
    """Only the last text differs: the contexts agree, so that similar requests can be looked for."""
    one, two = of([SYSTEM, {"role": "user", "content": " a "}]), of([SYSTEM, {"role": "user", "content": "b"}])
    assert one.context == two.context
    assert one.digest != two.digest
    assert (one.text, two.text) == ("a", "b")
    assert of([{"role": "user", "content": "a"}]).context != one.context


@pytest.mark.parametrize(
    "content", [[IMAGE], [{"type": "text", "text": "a"}, IMAGE], "", "  ", "x" * (MAX_TEXT_CHARS + 1)], ids=str
)
def test_what_is_found_exactly_only(content: Any) -> None:
    assert key(content).text is None


def test_a_last_turn_that_is_not_the_users_is_found_exactly_only() -> None:
    assert of([SYSTEM]).text is None
    assert of([{"role": "tool", "content": "a", "tool_call_id": "1"}]).text is None


def test_partitions() -> None:
    assert partition_of("shared", shared=False) != partition_of("a", shared=True) == SHARED
    request = chat("hi")
    made = {key_of(partition, "model:gpt", request).digest for partition in ("team:a", "team:b", SHARED)}
    assert len(made) == 3
    assert len({key_of(partition, "model:gpt", request).context for partition in ("team:a", "team:b", SHARED)}) == 3
    assert len({key_of("p", subject, request).digest for subject in ("model:gpt", "model:claude", "auto:hard")}) == 3


async def test_a_large_request_has_the_key_of_one_that_was_sent_alike() -> None:
    async def made(content: str, partition: str = "p", subject: str = "s", **more: Any) -> Key:
        fields = {"model": "m", "messages": [{"role": "user", "content": content}], **more}
        return key_of(partition, subject, await read_chat(json.dumps(fields).encode()))

    text = "x" * LARGE_BYTES
    first = await made(text)
    assert first == await made(text, user="someone", stream=True, n=1)
    others = [await made(text + " "), await made(text, "q"), await made(text, subject="t"), await made(text, seed=1)]
    assert len({first.digest, *(other.digest for other in others)}) == 5
    assert first.text is None


def test_nested_too_deeply() -> None:
    request, deep = chat("hi"), list[Any]()
    for _ in range(100_000):  # beyond what any Python bears
        deep = [deep]
    request.body["x"] = deep
    with pytest.raises(InvalidRequest):
        key_of("p", "s", request)


# --- any two requests that differ in anything that matters, in any team -----------------------------------------------

_TEXT = st.text(max_size=12)
_CONTENT = st.one_of(
    _TEXT, st.lists(st.one_of(st.just(IMAGE), _TEXT.map(lambda t: {"type": "text", "text": t})), max_size=3)
)
_MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": _CONTENT})
_REQUEST = st.fixed_dictionaries(
    {"messages": st.lists(_MESSAGE, min_size=1, max_size=4)},
    optional={
        "tools": st.lists(_TEXT.map(lambda name: {"type": "function", "function": {"name": name}}), max_size=2),
        "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
        "temperature": st.sampled_from([0, 0.5, 1]),
        "max_tokens": st.integers(1, 3),
        "seed": st.integers(0, 2),
    },
)
_ASKED = st.tuples(st.sampled_from(["a", "b", "a/b", "shared"]), st.booleans(), st.sampled_from(["m1", "m2"]), _REQUEST)


def _meaning(asked: tuple[str, bool, str, dict[str, Any]]) -> str:
    """The rules of the key, written a second time: what of a request counts."""
    import unicodedata

    team, shared, subject, request = asked

    def text(value: str, role: str) -> str:
        value = unicodedata.normalize("NFC", value.replace("\r\n", "\n").replace("\r", "\n"))
        return value if role == "assistant" else value.strip()

    def content(value: Any, role: str) -> Any:
        if isinstance(value, list) and len(value) == 1 and value[0]["type"] == "text":
            value = value[0]["text"]
        if isinstance(value, str):
            return text(value, role)
        return [part | {"text": text(part["text"], "assistant")} if "text" in part else part for part in value]

    messages = [message | {"content": content(message["content"], message["role"])} for message in request["messages"]]
    whose = "*" if shared else f"team {team}"
    return json.dumps([whose, subject, request | {"messages": messages}], sort_keys=True)


@settings(max_examples=100)
@given(st.lists(_ASKED, min_size=2, max_size=6))
def test_two_requests_share_a_key_only_if_nothing_that_counts_differs(asked: list[Any]) -> None:
    """Random teams, sharing or not, models, conversations, tools, formats, images, parameters."""
    meanings: dict[str, str] = {}
    for each in [*asked, asked[0]]:
        team, shared, subject, request = each
        made = key_of(partition_of(team, shared=shared), subject, chat(**({"content": ""} | request)))
        meaning = _meaning(each)
        assert meanings.setdefault(made.digest, meaning) == meaning
        assert meanings.setdefault(meaning, made.digest) == made.digest
