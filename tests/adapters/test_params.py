"""No parameter of OpenAI's is lost without a word: translated, on the list of the harmless, or refused."""

import json
import re
import typing
from typing import Any

import pytest
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsBase,
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)

from extproc.adapters.anthropic_request import _TABLE as ANTHROPIC
from extproc.adapters.google_request import _TABLE as GOOGLE
from extproc.adapters.params import COMMON, HARMLESS, NEUTRAL
from extproc.errors import InvalidRequest

from .asking import HELLO, WEATHER, body

KNOWN = sorted(
    set(typing.get_type_hints(CompletionCreateParamsBase))
    | set(typing.get_type_hints(CompletionCreateParamsStreaming))
    | set(typing.get_type_hints(CompletionCreateParamsNonStreaming))
)
# A value that means something, for each; the fields it needs beside it.
TELLING: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "frequency_penalty": 0.5,
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "max_completion_tokens": 77,
    "max_tokens": 77,
    "messages": HELLO,
    "metadata": {"trace": "x"},
    "modalities": ["text", "audio"],
    "model": "the-model",
    "moderation": {"model": "omni-moderation-latest"},
    "n": 2,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": 0.5,
    "prompt_cache_key": "x",
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    "safety_identifier": "u-2",
    "seed": 7,
    "service_tier": "flex",
    "stop": "END",
    "store": True,
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.3,
    "tool_choice": "required",
    "tools": [WEATHER],
    "top_logprobs": 3,
    "top_p": 0.4,
    "user": "u-1",
    "verbosity": "low",
    "web_search_options": {},
}
IN_THE_ANSWER = {("google", "parallel_tool_calls")}  # seen to by who reads it: test_google
WITH: dict[str, Any] = {"parallel_tool_calls": {"tools": [WEATHER]}, "tool_choice": {"tools": [WEATHER]}}
GATEWAYS = {"model", "messages", "stream", "stream_options"}  # the gateway's own business, or in the path


def said(fmt: str, **fields: Any) -> tuple[str | None, Any]:
    """The parameter it was refused for, or None and what was sent."""
    try:
        return None, body(fmt, **fields)
    except InvalidRequest as error:
        return error.param, None


def test_every_parameter_of_the_sdk_is_tried_here() -> None:
    assert sorted(TELLING) == KNOWN


@pytest.mark.parametrize("fmt", ["anthropic", "google"])
@pytest.mark.parametrize("name", KNOWN)
def test_no_parameter_is_dropped_silently(fmt: str, name: str) -> None:
    beside = WITH.get(name, {})
    table = {"anthropic": ANTHROPIC, "google": GOOGLE}[fmt]
    refused_for, sent = said(fmt, **{**beside, name: TELLING[name]})
    assert refused_for in (None, name)
    noticed = refused_for == name or sent != body(fmt, **beside)
    elsewhere = name in GATEWAYS or (fmt, name) in IN_THE_ANSWER
    assert noticed or elsewhere or HARMLESS.get(name) or table.harmless.get(name)


@pytest.mark.parametrize("fmt", ["anthropic", "google"])
@pytest.mark.parametrize("name", sorted({*KNOWN, "made_up"} - {"model", "messages"}))
def test_null_is_not_given(fmt: str, name: str) -> None:
    assert body(fmt, **{name: None}) == body(fmt)


@pytest.mark.parametrize("fmt", ["anthropic", "google"])
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in NEUTRAL.items() for value in values])
def test_values_that_say_what_is_so_anyway_pass(fmt: str, name: str, value: Any) -> None:
    body(fmt, **{name: value})


@pytest.mark.parametrize("fmt", ["anthropic", "google"])
@pytest.mark.parametrize("name", ["top_k", "thinking", "made_up"])
def test_trap_33_what_openai_does_not_know_is_refused_where_it_cannot_pass(fmt: str, name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body(fmt, **{name: {"a": 1}})
    assert caught.value.param == name


@pytest.mark.parametrize("fmt", ["openai", "azure"])
def test_trap_33_only_what_the_client_wrote_goes_on(fmt: str) -> None:
    asked: dict[str, Any] = {"messages": HELLO, "temperature": 0.5, "x_new": [1]}
    assert body(fmt, **asked) == {"model": "gpt-4o", **asked}


@pytest.mark.parametrize("fmt", ["anthropic", "google", "bedrock"])
def test_chunks_are_not_said_to_be_padded(fmt: str) -> None:
    body(fmt, stream=True, stream_options={"include_obfuscation": False})
    with pytest.raises(InvalidRequest) as caught:
        body(fmt, stream=True, stream_options={"include_obfuscation": True})
    assert caught.value.param == "stream_options.include_obfuscation"


@pytest.mark.parametrize("fmt", ["anthropic", "google", "bedrock"])
def test_what_stands_beside_a_schema_is_in_it(fmt: str) -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "description": "a day", "schema": schema}}
    described = {"type": "json_schema", "json_schema": {"name": "x", "schema": {**schema, "description": "a day"}}}
    assert body(fmt, response_format=wanted) == body(fmt, response_format=described) != body(fmt)


@pytest.mark.parametrize(
    ("fmt", "tier", "sent"),
    [
        ("anthropic", "default", "standard_only"),
        ("anthropic", "auto", None),
        ("bedrock", "default", None),
        ("google", "default", None),
    ],
)
def test_only_anthropic_is_told_to_leave_paid_capacity_alone(fmt: str, tier: str, sent: str | None) -> None:
    assert body(fmt, service_tier=tier).get("service_tier") == sent


def test_the_tables_do_not_overlap() -> None:
    for table in (ANTHROPIC, GOOGLE):
        assert not COMMON & (HARMLESS.keys() | NEUTRAL.keys() | table.harmless.keys() | table.translated)


@pytest.mark.parametrize("fmt", ["anthropic", "google"])
@pytest.mark.parametrize(
    ("name", "value", "told"), [("logprobs", True, "true"), ("modalities", ["audio"], '["audio"]')]
)
def test_a_refusal_tells_the_value_as_it_was_written(fmt: str, name: str, value: Any, told: str) -> None:
    with pytest.raises(InvalidRequest, match=f"with the value {re.escape(told)}"):
        body(fmt, **{name: value})


@pytest.mark.parametrize("fmt", ["anthropic", "google"])
def test_a_refusal_does_not_repeat_a_long_value(fmt: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body(fmt, logit_bias={str(number): 1 for number in range(1000)})
    assert len(caught.value.message) < 200
    assert json.loads(caught.value.body())["error"]["param"] == "logit_bias"
