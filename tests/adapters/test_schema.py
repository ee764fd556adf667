"""Schemas closed for a provider that takes no others."""

from typing import Any

import pytest

from extproc.adapters.schema import closed

from .asking import body

TOWN: dict[str, Any] = {"type": "object", "properties": {"name": {"type": "string"}}}
CLOSED: dict[str, Any] = {**TOWN, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (TOWN, CLOSED),
        ({**TOWN, "additionalProperties": True}, CLOSED),
        ({"type": "array", "items": TOWN}, {"type": "array", "items": CLOSED}),
        ({"anyOf": [TOWN, {"type": "null"}]}, {"anyOf": [CLOSED, {"type": "null"}]}),
        ({"$ref": "#/$defs/T", "$defs": {"T": TOWN}}, {"$ref": "#/$defs/T", "$defs": {"T": CLOSED}}),
        (
            {"properties": {"properties": TOWN}},  # a property of that name
            {"properties": {"properties": CLOSED}, "additionalProperties": False},
        ),
    ],
)
def test_objects_that_list_their_properties_are_closed(schema: Any, expected: Any) -> None:
    assert closed(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {}},
        {**TOWN, "additionalProperties": {"type": "string"}},
        {"allOf": [TOWN, {"properties": {"size": {"type": "integer"}}}]},
        {**TOWN, "allOf": [{"required": ["size"]}]},
        {"enum": [{"properties": {"a": 1}}], "const": {"properties": {"a": 1}}},
        CLOSED,
        True,
    ],
)
def test_what_closing_would_change_is_left(schema: Any) -> None:
    assert closed(schema) == schema


def test_claude_gets_it_closed_and_nobody_else() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": TOWN}}
    assert body("anthropic", response_format=wanted)["output_config"]["format"]["schema"] == CLOSED
    assert body("openai", response_format=wanted)["response_format"] == wanted
    assert body("google", response_format=wanted)["generationConfig"]["responseJsonSchema"] == TOWN
