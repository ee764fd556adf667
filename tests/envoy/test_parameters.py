"""Parameters through a real Envoy by the official SDK: said to each provider in its words, or refused by name."""

import base64
import json
from typing import Any

import openai
import pytest

from tests.envoy.harness import FORMATS, MODEL_OF, Gateway, Simulator, ask

MODELS = [MODEL_OF[name] for name in FORMATS]
TOOLS: Any = [{"type": "function", "function": {"name": name}} for name in ("get_weather", "get_time", "order")]


def called(gateway: Gateway, stream: bool, **asked: Any) -> list[str]:
    """The tools that the model called."""
    answer: Any = gateway.client().chat.completions.create(**asked, stream=stream)
    said = [chunk.choices[0].delta for chunk in answer if chunk.choices] if stream else [answer.choices[0].message]
    return [call.function.name for message in said for call in message.tool_calls or () if call.id]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", MODELS)
def test_of_several_tools_only_the_allowed_are_called(gateway: Gateway, model: str, stream: bool) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": TOOLS[1:2]}}
    asked = ask("What is the weather?", model, tools=TOOLS)
    assert called(gateway, stream, **asked, tool_choice="required") == ["get_weather"]
    assert called(gateway, stream, **asked, tool_choice=choice) == ["get_time"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", MODELS)
def test_a_client_that_takes_one_call_at_a_time_gets_one(gateway: Gateway, model: str, stream: bool) -> None:
    asked = ask("call get_weather and get_time", model, tools=TOOLS)
    assert called(gateway, stream, **asked) == ["get_weather", "get_time"]
    assert called(gateway, stream, **asked, parallel_tool_calls=False) == ["get_weather"]


@pytest.mark.parametrize("model", MODELS)
def test_a_schema_that_is_not_strict_will_do(gateway: Gateway, model: str) -> None:
    """As Pydantic and Zod write them: objects are not said to be closed, numbers and lists have limits."""
    size = {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}
    town = {"type": "object", "properties": {"name": {"type": "string", "minLength": 1}, "size": size}}
    schema = {
        "type": "object",
        "properties": {"towns": {"type": "array", "items": {"$ref": "#/$defs/Town"}, "maxItems": 9}},
        "required": ["towns"],
        "$defs": {"Town": town},
    }
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "towns", "schema": schema}}
    answer = gateway.client().chat.completions.create(**ask("Towns", model), response_format=wanted)
    assert "towns" in json.loads(answer.choices[0].message.content or "")


@pytest.mark.parametrize("model", MODELS)
def test_a_text_file_is_read_by_every_provider(gateway: Gateway, model: str) -> None:
    data = "data:text/csv;base64," + base64.b64encode("a,ä\n".encode()).decode()
    content = [{"type": "text", "text": "Sum up"}, {"type": "file", "file": {"filename": "a.csv", "file_data": data}}]
    messages: Any = [{"role": "user", "content": content}]
    assert gateway.client().chat.completions.create(model=model, messages=messages).choices[0].message.content


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", MODELS[1:])
@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"verbosity": "low"}, "verbosity"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"messages": [{"role": "user", "name": name, "content": "x"} for name in "ab"]}, "messages[1].name"),
    ],
)
def test_what_a_provider_has_no_word_for_is_named(
    gateway: Gateway, primary: Simulator, model: str, stream: bool, given: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        gateway.client().chat.completions.create(**ask("Hello", model) | given, stream=stream)
    assert caught.value.param == param
    assert primary.recent() == []
