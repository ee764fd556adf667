"""What a model that is not OpenAI's may call: the tools and the choice among them, refused where it cannot be said."""

from typing import Any

import pytest

from extproc.errors import InvalidRequest

from .asking import WEATHER, body

TIME = {"type": "function", "function": {"name": "get_time"}}
OTHER = {"type": "function", "function": {"name": "order"}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize("fmt", ["anthropic", "google"])
@pytest.mark.parametrize(
    ("tools", "choice"),
    [
        (None, "required"),
        ([], {"type": "function", "function": {"name": "get_weather"}}),
        ([WEATHER], {"type": "function", "function": {"name": "other"}}),
        ([WEATHER], {"type": "function"}),
        ([WEATHER], "function"),
        ([WEATHER], "sometimes"),
        ([WEATHER], allowed("auto")),
        ([WEATHER], allowed("auto", "get_weather", "other")),
        (None, allowed("required", "get_weather")),
    ],
)
def test_trap_32_a_choice_without_its_tool_is_refused(fmt: str, tools: Any, choice: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body(fmt, tools=tools, tool_choice=choice)
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize("fmt", ["anthropic", "google", "bedrock"])
def test_of_several_tools_a_model_is_shown_those_it_may_call(fmt: str) -> None:
    sent = body(fmt, tools=[WEATHER, OTHER, TIME], tool_choice=allowed("required", "get_time", "get_weather"))
    assert sent == body(fmt, tools=[WEATHER, TIME], tool_choice="required")
    assert body(fmt, tools=[OTHER, WEATHER], tool_choice=allowed("auto", "get_weather")) == body(fmt, tools=[WEATHER])


@pytest.mark.parametrize("fmt", ["anthropic", "google"])
@pytest.mark.parametrize("choice", ["auto", "none"])
def test_trap_32_a_choice_of_no_tools_is_nothing(fmt: str, choice: str) -> None:
    assert body(fmt, tool_choice=choice) == body(fmt)


@pytest.mark.parametrize("fmt", ["anthropic", "google"])
@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "custom", "custom": {"name": "x"}}, "tools[1].type"),
        ({"type": "function"}, "tools[1].function"),
        ({"type": "function", "function": {}}, "tools[1].function.name"),
        ({"type": "function", "function": {"name": "x", "parameters": "y"}}, "tools[1].function.parameters"),
    ],
)
def test_tools_that_cannot_be_said_are_refused(fmt: str, tool: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body(fmt, tools=[WEATHER, tool])
    assert caught.value.param == param


@pytest.mark.parametrize("fmt", ["anthropic", "google"])
@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({}, "tool_choice.allowed_tools.mode"),
        ({"mode": "never", "tools": [WEATHER]}, "tool_choice.allowed_tools.mode"),
        ({"mode": "auto", "tools": [{"type": "custom"}]}, "tool_choice.allowed_tools.tools[0].type"),
    ],
)
def test_a_wrong_list_of_allowed_tools_is_refused(fmt: str, said: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body(fmt, tools=[WEATHER], tool_choice={"type": "allowed_tools", "allowed_tools": said})
    assert caught.value.param == param
