"""What is said: the token rule, limits, and values made up from schemas."""

import json
from typing import Any

import pytest

from control.demo import calls, text
from control.demo.ask import Answer, Ask, Shape, Tool
from control.demo.text import PromptCache

DEEP = "[" * 100_000  # more than any Python reads


def compose(shape: Shape | None = None, **fields: Any) -> Answer:
    user = fields.setdefault("user", "Tell me about gateways")
    ask = Ask(**({"format": "openai", "model": "gpt-4o", "texts": [user]} | fields))
    return text.compose(ask, shape or Shape(), PromptCache())


def said(answer: Answer) -> str:
    return "".join(answer.choices[0].pieces)


def test_a_token_is_four_bytes_started() -> None:
    assert [text.tokens(size) for size in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert compose(user="abcdé", texts=["abc", "dé"]).prompt_tokens == 2  # 6 bytes, however they are split
    assert compose(images=2, texts=["abcd"]).prompt_tokens == 1 + 2 * text.IMAGE_TOKENS


def test_the_answer_follows_from_the_conversation_and_the_seed() -> None:
    assert compose() == compose()
    assert compose() != compose(Shape(seed=1))
    assert said(compose()) != said(compose(user="Tell me about gateways again"))
    assert said(compose(texts=["Tell me ", "about gateways"])) == said(compose())


def test_a_marker_changes_nothing_of_what_is_said() -> None:
    marked = compose(user="Tell me about gateways [[demo status=503]]")
    assert said(marked) == said(compose())


@pytest.mark.parametrize("limit", [*range(1, 60), 10_000])
def test_max_tokens_is_exact_and_cuts_whole_characters(limit: int) -> None:
    whole = compose(Shape(chunks=40), user="日本語のゲートウェイ 🙂")
    cut = compose(Shape(chunks=40), user="日本語のゲートウェイ 🙂", max_tokens=limit)
    assert said(whole).startswith(said(cut))
    assert cut.output_tokens == min(limit, whole.output_tokens)
    assert cut.choices[0].finish == ("length" if limit < whole.output_tokens else "stop")


def test_a_stop_sequence_ends_the_answer_before_it() -> None:
    answer = compose(stop=["nowhere", "asked"])
    assert said(answer) == "✓ You "
    assert (answer.choices[0].finish, answer.choices[0].stop_sequence) == ("stop_sequence", "asked")


def test_chunks_and_size_can_be_set() -> None:
    assert len(compose(Shape(chunks=200)).choices[0].pieces) == 200
    assert len(compose(Shape(chunks=9000)).choices[0].pieces) == 9000
    assert len(said(compose(Shape(huge=1_000_003)))) == 1_000_003
    assert len(compose(Shape(huge=1_000_003, chunks=7)).choices[0].pieces) == 7


def test_reasoning_counts_as_output_and_against_the_limit() -> None:
    plain, thinking = compose(), compose(model="o3")
    assert thinking.reasoning_tokens == 128
    assert thinking.output_tokens == plain.output_tokens + 128
    starved = compose(model="o3", max_tokens=100)
    assert (starved.output_tokens, starved.reasoning_tokens, said(starved)) == (100, 100, "")
    assert starved.choices[0].finish == "length"
    assert compose(effort="low").reasoning_tokens < compose(effort="high").reasoning_tokens


def test_a_long_system_prompt_is_cached_the_second_time() -> None:
    cache = PromptCache()
    ask = Ask(format="openai", model="m", texts=["s" * 5000, "hi"], system="s" * 5000, user="hi")
    first, second = text.compose(ask, Shape(), cache), text.compose(ask, Shape(), cache)
    assert (first.cached_tokens, first.cache_write_tokens) == (0, 1152)
    assert (second.cached_tokens, second.cache_write_tokens) == (1152, 0)
    short = Ask(format="openai", model="m", texts=["s", "hi"], system="s", user="hi")
    assert [text.compose(short, Shape(), cache).cached_tokens for _ in range(2)] == [0, 0]


SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"enum": ["c", "f"]},
        "days": {"type": "integer", "minimum": 3, "maximum": 5},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": 3},
        "maybe": {"type": ["string", "null"]},
        "any": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        "when": {"type": "string", "format": "date"},
    },
    "$defs": {"tag": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 4}}}},
}


def test_values_fit_their_schema() -> None:
    value = calls.example(SCHEMA, "x", 12345)
    assert set(value) == set(SCHEMA["properties"])
    assert value["unit"] in ("c", "f")
    assert 3 <= value["days"] <= 5
    assert len(value["tags"]) == 3
    assert len(value["tags"][0]["name"]) <= 4
    assert isinstance(value["maybe"], str)
    assert isinstance(value["any"], bool)
    assert value["when"] == "2025-01-02"
    loop: dict[str, Any] = {"type": "object", "properties": {"self": {"$ref": "#"}}}
    assert "self" in calls.example(loop, "x", 1)  # ends


@pytest.mark.parametrize(
    ("user", "choice", "names"),
    [
        ("please call add", "auto", ["add"]),
        ("call add and get_date", "auto", ["add", "get_date"]),
        ("call add, get_date, and add", "auto", ["add", "get_date", "add"]),
        ("call mother", "auto", []),
        ("call add", "none", []),
        ("hello", "any", ["add"]),
        ("hello", "=get_date", ["get_date"]),
    ],
)
def test_tools_are_called_when_the_text_or_the_choice_says_so(user: str, choice: str, names: list[str]) -> None:
    tools = [Tool("add", SCHEMA), Tool("get_date", {})]
    answer = compose(user=user, texts=[user], tools=tools, choice=choice)
    calls = answer.choices[0].calls
    assert [call.name for call in calls] == names
    assert all(json.loads(call.json) == call.arguments for call in calls)
    assert answer.choices[0].finish == ("tool_calls" if names else "stop")


def test_one_call_only_if_not_parallel() -> None:
    tools = [Tool("add", SCHEMA), Tool("get_date", {})]
    answer = compose(user="call add and get_date", tools=tools, parallel=False)
    assert [call.name for call in answer.choices[0].calls] == ["add"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        ('{"b": 1, "a": 2}', '{"a":2,"b":1}'),
        ({"b": 1, "a": 2}, '{"a":2,"b":1}'),
        ({"result": "plain"}, "plain"),
        ({"result": '{"b": 1}'}, '{"b":1}'),
        ("{not json", "{not json"),
        pytest.param(DEEP, DEEP, id="deep"),
    ],
)
def test_tool_results_count_the_same_however_they_travel(value: object, expected: str) -> None:
    assert text.canonical(value) == expected
