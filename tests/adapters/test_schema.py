"""Schemas for Claude's grammar, held against what Anthropic's own SDK makes of them."""

from typing import Any

import pytest
from anthropic.lib._parse._transform import transform_schema
from pydantic import BaseModel, Field

from extproc.adapters.schema import narrowed
from extproc.errors import InvalidRequest

from .asking import body, target

TOWN: dict[str, Any] = {"type": "object", "properties": {"name": {"type": "string"}}}
CLOSED: dict[str, Any] = {**TOWN, "additionalProperties": False}


def claude(schema: dict[str, Any]) -> Any:
    return narrowed(schema, target("anthropic"), "response_format")


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (TOWN, CLOSED),
        ({**TOWN, "additionalProperties": True}, CLOSED),
        ({"type": "array", "items": TOWN}, {"type": "array", "items": CLOSED}),
        ({"oneOf": [TOWN, {"type": "null"}]}, {"anyOf": [CLOSED, {"type": "null"}]}),
        ({"allOf": [TOWN]}, {"allOf": [CLOSED]}),
        ({"$ref": "#/$defs/T", "$defs": {"T": TOWN}}, {"$ref": "#/$defs/T", "$defs": {"T": CLOSED}}),
        (
            {"type": "object", "properties": {"properties": TOWN}},  # a property of that name
            {"type": "object", "properties": {"properties": CLOSED}, "additionalProperties": False},
        ),
        ({"type": ["string", "null"], "maxLength": 5}, {"type": ["string", "null"], "description": '{"maxLength":5}'}),
        (
            {"type": "integer", "description": "Age.", "minimum": 0, "maximum": 150},
            {"type": "integer", "description": 'Age.\n\n{"minimum":0,"maximum":150}'},
        ),
        (
            {"type": "array", "minItems": 1, "maxItems": 3},
            {"type": "array", "minItems": 1, "description": '{"maxItems":3}'},
        ),
        ({"type": "array", "minItems": 2}, {"type": "array", "description": '{"minItems":2}'}),
        ({"type": "string", "format": "uuid"}, {"type": "string", "format": "uuid"}),
        ({"type": "string", "format": "phone"}, {"type": "string", "description": '{"format":"phone"}'}),
        ({"type": "string", "enum": ["minimum"], "title": "T"}, {"type": "string", "enum": ["minimum"], "title": "T"}),
        ({"type": "object", "additionalProperties": False}, {"type": "object", "additionalProperties": False}),
        ({"type": "object", "properties": {}}, {"type": "object", "properties": {}, "additionalProperties": False}),
        (CLOSED, CLOSED),
        ({}, {}),
        ({"type": "string", "format": []}, {"type": "string", "description": '{"format":[]}'}),
        ({"items": [1], "anyOf": 3, "$defs": 4}, {"items": [1], "$defs": 4, "description": '{"anyOf":3}'}),
    ],
)
def test_what_the_grammar_takes_stays_and_the_rest_is_told(schema: Any, expected: Any) -> None:
    assert claude(schema) == expected
    assert claude(expected) == expected


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "object"}, "any properties"),
        ({"type": ["object", "null"]}, "any properties"),
        ({**TOWN, "additionalProperties": {"type": "string"}}, "any properties"),
        ({"allOf": [TOWN, {"properties": {"size": {"type": "integer"}}}]}, "allOf"),
    ],
)
def test_what_closing_would_change_is_refused_by_name(schema: Any, why: str) -> None:
    for wanted in (schema, {"type": "array", "items": schema}):
        with pytest.raises(InvalidRequest) as caught:
            claude(wanted)
        assert caught.value.param == "response_format"
        assert why in str(caught.value)


def test_a_schema_that_is_too_deep_is_refused() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(900):
        deep = {"type": "array", "items": deep}
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        claude(deep)


class Road(BaseModel):
    """A road."""

    name: str = Field(min_length=1, max_length=40, description="As on the signs.")
    lanes: int = Field(ge=1, le=12)
    towns: list[str] = Field(min_length=2)
    code: str | None = Field(default=None, pattern="^[A-Z]+$")


class Map(BaseModel):
    roads: list[Road] = Field(max_length=3)
    main: Road


def test_it_is_what_anthropics_own_sdk_sends_but_for_the_words() -> None:
    def without_words(schema: Any) -> Any:
        if isinstance(schema, list):
            return [without_words(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        return {
            name: bool(value) if name == "description" and isinstance(value, str) else without_words(value)
            for name, value in schema.items()
        }

    schema = Map.model_json_schema()
    assert without_words(claude(schema)) == without_words(transform_schema(schema))


def test_claude_gets_it_so_and_nobody_else() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": TOWN}}
    assert body("anthropic", response_format=wanted)["output_config"]["format"]["schema"] == CLOSED
    assert body("openai", response_format=wanted)["response_format"] == wanted
    assert body("google", response_format=wanted)["generationConfig"]["responseJsonSchema"] == TOWN


@pytest.mark.parametrize(("strict", "expected"), [(True, CLOSED), (False, TOWN), (None, TOWN)])
def test_tools_are_held_to_a_schema_only_where_they_are_strict(strict: bool | None, expected: Any) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": TOWN, "strict": strict}}
    assert body("anthropic", tools=[tool])["tools"][0]["input_schema"] == expected
