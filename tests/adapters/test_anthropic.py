"""What Anthropic is sent. What its own words become is in `test_anthropic_answers`."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParams
from pydantic import TypeAdapter

from extproc.errors import InvalidRequest

from .asking import WEATHER, ask, body
from .cases import FIXTURES

USER = {"role": "user", "content": "Hello"}


def call(call_id: str = "c1", arguments: str = "{}", name: str = "f") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


CALLED = [USER, {"role": "assistant", "tool_calls": [call()]}, {"role": "tool", "tool_call_id": "c1", "content": "x"}]


def turns(*messages: Any) -> list[tuple[str, list[Any]]]:
    """The turns sent, each as its role and the kinds or texts of its blocks."""
    return [
        (turn["role"], [block.get("text") or block["type"] for block in turn["content"]])
        for turn in body("anthropic", messages=list(messages))["messages"]
    ]


def test_path_and_headers() -> None:
    request = ask("anthropic")
    assert request.path == "/messages"
    assert dict(request.headers) == {"content-type": "application/json", "anthropic-version": "2023-06-01"}


@pytest.mark.parametrize(
    ("fields", "to", "expected"),
    [
        ({}, {}, 4096),
        ({}, {"max_output_tokens": 8192}, 8192),
        ({"max_tokens": 7}, {"max_output_tokens": 8192}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 9}, {}, 9),
        ({"max_tokens": 100_000}, {"max_output_tokens": 8192}, 100_000),
    ],
)
def test_trap_34_max_tokens_is_always_sent_and_never_lowered(fields: Any, to: Any, expected: int) -> None:
    assert body("anthropic", to=to, **fields)["max_tokens"] == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 1.2}, "temperature"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
    ],
)
def test_trap_34_what_claude_cannot_do_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body("anthropic", **fields)
    assert caught.value.param == param


@pytest.mark.parametrize("temperature", [0, 0.5, 1])
def test_a_temperature_both_know_is_sent(temperature: float) -> None:
    assert body("anthropic", temperature=temperature)["temperature"] == temperature


OLD, ONE, NEITHER = "claude-sonnet-4-20250514", "claude-sonnet-4-5-20250929", "claude-opus-4-8"


@pytest.mark.parametrize(
    ("model", "fields", "expected"),
    [
        (OLD, {"temperature": 0.2, "top_p": 0.5}, {"temperature": 0.2, "top_p": 0.5}),
        (ONE, {"temperature": 0, "top_p": 1}, {"temperature": 0}),
        (ONE, {"temperature": 1, "top_p": 0.5}, {"top_p": 0.5}),
        (ONE, {"temperature": 1, "top_p": 1}, {}),
        (ONE, {"temperature": 1}, {"temperature": 1}),
        ("claude-opus-4-1", {"temperature": 0.2, "top_p": 1}, {"temperature": 0.2}),
        ("eu.anthropic.claude-haiku-4-5-20251001-v1:0", {"temperature": 0.2, "top_p": 1}, {"temperature": 0.2}),
        (NEITHER, {"temperature": 1, "top_p": 1}, {}),
        (NEITHER, {"temperature": None, "top_p": 1}, {}),
        ("claude-sonnet-5", {"temperature": 1}, {}),
    ],
)
def test_of_sampling_what_is_so_anyway_is_left_out_where_it_would_be_refused(
    model: str, fields: Any, expected: Any
) -> None:
    sent = body("anthropic", to={"upstream_name": model}, **fields)
    assert {name: sent[name] for name in ("temperature", "top_p") if name in sent} == expected


@pytest.mark.parametrize(
    ("model", "fields", "param"),
    [
        (ONE, {"temperature": 0.2, "top_p": 0.5}, "top_p"),
        (NEITHER, {"temperature": 0}, "temperature"),
        (NEITHER, {"temperature": 1, "top_p": 0.5}, "top_p"),
        ("us.anthropic.claude-opus-4-7-v1:0", {"temperature": 0.7}, "temperature"),
    ],
)
def test_sampling_that_the_model_does_not_take_is_refused(model: str, fields: Any, param: str) -> None:
    """Here, so that a stand-in that takes it is asked."""
    with pytest.raises(InvalidRequest) as caught:
        body("anthropic", to={"upstream_name": model}, **fields)
    assert caught.value.param == param


def test_instructions_are_gathered_in_front() -> None:
    sent = body(
        "anthropic",
        messages=[
            {"role": "system", "content": "a"},
            USER,
            {"role": "developer", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": ""}]},
        ],
    )
    assert [block["text"] for block in sent["system"]] == ["a", "b"]
    assert len(sent["messages"]) == 1


def test_trap_31_turns_alternate_and_results_share_a_turn_with_what_is_said_next() -> None:
    assert turns(
        {"role": "system", "content": None},
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c", "tool_calls": [call("1"), call("2")]},
        {"role": "tool", "tool_call_id": "1", "content": "d"},
        {"role": "tool", "tool_call_id": "2", "content": None},
        {"role": "user", "content": "e"},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "f"}], "refusal": "g"},
    ) == [
        ("user", ["a", "b"]),
        ("assistant", ["c", "tool_use", "tool_use"]),
        ("user", ["tool_result", "tool_result", "e"]),
        ("assistant", ["f", "g"]),
    ]


def test_trap_31_texts_of_white_space_alone_are_not_sent() -> None:
    """Anthropic refuses a message that says nothing else; beside another text they stay."""
    assert turns(
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": " "}]},
        {"role": "assistant", "content": "\n\n", "tool_calls": [call("1")]},
        {"role": "tool", "tool_call_id": "1", "content": " "},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": ""}, {"type": "text", "text": "\t"}]},
        {"role": "assistant", "content": "\n", "refusal": " "},
        {"role": "user", "content": [{"type": "text", "text": " "}, {"type": "image_url", "image_url": "https://x/y"}]},
    ) == [("user", ["a", " "]), ("assistant", ["tool_use"]), ("user", ["tool_result", "image"])]
    assert "system" not in body("anthropic", messages=[{"role": "system", "content": " \n"}, USER])


@pytest.mark.parametrize("ends", ["{ \n", [{"type": "text", "text": "{ "}, {"type": "text", "text": "\n"}]], ids=type)
def test_trap_22_what_the_model_goes_on_from_ends_with_a_word(ends: Any) -> None:
    said = [{"role": "assistant", "content": "a "}, USER, {"role": "assistant", "content": ends}]
    assert turns(USER, *said) == [
        ("user", ["Hello"]),
        ("assistant", ["a "]),
        ("user", ["Hello"]),
        ("assistant", ["{"]),
    ]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "x"}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": "\n"}],
    ],
)
def test_nothing_to_answer_is_refused(messages: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body("anthropic", messages=messages)
    assert caught.value.param == "messages"


@pytest.mark.parametrize("arguments", ["{", "[]", "null", '"x"', '{"a":'])
def test_trap_32_tool_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body("anthropic", messages=[USER, {"role": "assistant", "tool_calls": [call(), call("2", arguments)]}])
    assert caught.value.param == "messages[1].tool_calls[1].function.arguments"


@pytest.mark.parametrize("arguments", ["", " ", "{}"])
def test_no_arguments_are_an_empty_object(arguments: str) -> None:
    sent = body("anthropic", messages=[USER, {"role": "assistant", "tool_calls": [call("1", arguments)]}])
    assert sent["messages"][1]["content"][0]["input"] == {}


def test_tool_call_ids_have_the_characters_anthropic_takes() -> None:
    sent = body(
        "anthropic",
        messages=[
            USER,
            {"role": "assistant", "tool_calls": [call("a.b:c~sig~xyz=")]},
            {"role": "tool", "tool_call_id": "a.b:c~sig~xyz=", "content": "x"},
        ],
    )
    assert sent["messages"][1]["content"][0]["id"] == sent["messages"][2]["content"][0]["tool_use_id"] == "a_b_c"


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, None),
        ("auto", True, None),
        ("auto", False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("none", False, {"type": "none"}),
        ("required", None, {"type": "any"}),
        ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
        ({"type": "function", "function": {"name": "get_weather"}}, None, {"type": "tool", "name": "get_weather"}),
    ],
)
def test_trap_32_tool_choice(choice: Any, parallel: Any, expected: Any) -> None:
    sent = body("anthropic", tools=[WEATHER], tool_choice=choice, parallel_tool_calls=parallel)
    assert sent.get("tool_choice") == expected
    assert sent["tools"][0]["name"] == "get_weather"


@pytest.mark.parametrize("fmt", ["anthropic", "google"])
@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "oracle", "content": "x"}, "messages[1].role"),
        ({"role": "user", "content": [{"type": "hologram"}]}, "messages[1].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content[0].text"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "messages[1].content[0].text"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[1].content[0].image_url"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": 1}}]},
            "messages[1].content[0].image_url.url",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]},
            "messages[1].content[0].image_url.url",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png,abc"}}]},
            "messages[1].content[0].image_url.url",
        ),
        ({"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}, "messages[1].content[0].file"),
        (
            {"role": "system", "content": [{"type": "image_url", "image_url": "https://x"}]},
            "messages[1].content[0].type",
        ),
        ({"role": "assistant", "tool_calls": [{"id": "1", "type": "custom"}]}, "messages[1].tool_calls[0].type"),
        ({"role": "assistant", "tool_calls": [{"type": "function"}]}, "messages[1].tool_calls[0].id"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "messages[1].function_call"),
        ({"role": "assistant", "audio": {"id": "a"}}, "messages[1].audio"),
        ({"role": "tool", "content": "x"}, "messages[1].tool_call_id"),
        ({"role": "function", "name": "f", "content": "x"}, "messages[1].role"),
        ({"role": "user", "name": "bob", "content": "x"}, "messages[1].name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_messages_that_cannot_be_said_are_refused(fmt: str, message: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body(fmt, messages=[{**USER, "name": "ann"}, message])
    assert caught.value.param == param


@pytest.mark.parametrize("fmt", ["anthropic", "google"])
def test_a_name_that_tells_nobody_apart_is_left_out(fmt: str) -> None:
    said = [*CALLED, USER]
    named = [{**message, "name": name} for message, name in zip(said, ("ann", "claude", "f", "ann"), strict=True)]
    assert body(fmt, messages=named) == body(fmt, messages=said)


@pytest.mark.parametrize("data", ["/w==", "YQ", "*"])
def test_a_text_file_that_is_no_text_is_refused(data: str) -> None:
    part = {"type": "file", "file": {"file_data": f"data:text/plain;base64,{data}"}}
    with pytest.raises(InvalidRequest) as caught:
        body("anthropic", messages=[{"role": "user", "content": [part]}])
    assert caught.value.param == "messages[0].content[0].file.file_data"


def test_audio_is_refused() -> None:
    part = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    with pytest.raises(InvalidRequest) as caught:
        body("anthropic", messages=[{"role": "user", "content": [part]}])
    assert caught.value.param == "messages[0].content[0].type"


def test_images_and_files() -> None:
    content = [
        {"type": "image_url", "image_url": {"url": "data:image/webp;base64,UklG", "detail": "high"}},
        {"type": "image_url", "image_url": "https://example.com/x.png"},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}},
        {"type": "file", "file": {"file_data": "data:text/csv;base64,YSzDpA=="}},
        {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
    ]
    sent = body("anthropic", messages=[{"role": "user", "content": content}])
    assert sent["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": "UklG"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/x.png"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
            "title": "a.pdf",
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a,ä"}},
        {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
    ]


@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        ("claude-opus-4-7", "high", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
        ("claude-sonnet-4-6", "minimal", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
        ("claude-opus-5", "none", {"thinking": {"type": "disabled"}}),
        ("claude-opus-4-8", "none", {}),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "none", {}),
        ("claude-haiku-4-5-20251001", "low", {"thinking": {"type": "enabled", "budget_tokens": 2048}}),
        ("claude-opus-4-1", "high", {"thinking": {"type": "enabled", "budget_tokens": 4095}}),
        ("claude-3-7-sonnet-latest", "medium", {"thinking": {"type": "enabled", "budget_tokens": 4095}}),
        ("claude-3-5-haiku-latest", "none", {}),
    ],
)
def test_reasoning_effort_by_generation(model: str, effort: str, expected: Any) -> None:
    sent = body("anthropic", to={"upstream_name": model}, reasoning_effort=effort)
    assert {key: sent[key] for key in ("thinking", "output_config") if key in sent} == expected


@pytest.mark.parametrize(("model", "limit"), [("claude-3-5-haiku-latest", 5000), ("claude-haiku-4-5", 1024)])
def test_reasoning_where_there_is_none_or_no_room_is_refused(model: str, limit: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body("anthropic", to={"upstream_name": model}, reasoning_effort="low", max_tokens=limit)
    assert caught.value.param == "reasoning_effort"


@pytest.mark.parametrize(
    ("model", "messages", "thinks"),
    [
        ("claude-haiku-4-5", CALLED, False),
        ("claude-haiku-4-5", [*CALLED, USER], False),
        ("claude-haiku-4-5", [*CALLED, {"role": "assistant", "content": "y"}, USER], True),
        ("claude-sonnet-4-6", CALLED, True),
    ],
)
def test_trap_6_thinking_that_cannot_come_back_with_its_tool_calls_is_not_asked_for(
    model: str, messages: Any, thinks: bool
) -> None:
    """With a thinking budget Claude refuses tool results whose calls come without the thinking that led to them."""
    sent = body("anthropic", to={"upstream_name": model}, messages=messages, reasoning_effort="low")
    assert ("thinking" in sent) == thinks


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [WEATHER], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "auto"}, None),
        ({"temperature": 0.5}, "temperature"),
        ({"temperature": 1}, None),
        ({"top_p": 0.9}, "top_p"),
        ({"top_p": 0.95}, None),
    ],
)
def test_trap_34_what_a_thinking_budget_excludes_is_refused(fields: dict[str, Any], param: str | None) -> None:
    asked = {"to": {"upstream_name": "claude-haiku-4-5"}, "reasoning_effort": "low", **fields}
    with pytest.raises(InvalidRequest) if param else nullcontext() as caught:
        body("anthropic", **asked)
    assert caught is None or caught.value.param == param
    body("anthropic", **(asked | {"reasoning_effort": "none"}))


SENT = sorted((FIXTURES / "anthropic").glob("*/provider.json"))


@pytest.mark.parametrize("path", SENT, ids=[path.parent.name for path in SENT])
def test_the_official_types_accept_what_is_sent(path: Path) -> None:
    TypeAdapter(MessageCreateParams).validate_json(path.read_bytes())
