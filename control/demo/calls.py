"""Tool calls the simulator makes up: which tools the user's text names, with arguments by their JSON schema.

In: an `Ask`. Out: `Call`s, the same for the same digest.
"""

import re
from typing import Any

import msgspec

from control.demo.ask import Ask, Call, Tool

_CALL = re.compile(r"\bcall\s+`?([\w.-]+)`?((?:\s*(?:,\s*and|,|and)\s+`?[\w.-]+`?)*)", re.IGNORECASE)
_NAME = re.compile(r"[\w.-]+")


def named_calls(ask: Ask, digest: int) -> list[Call]:
    """The calls that the user's text, or `tool_choice`, asks for."""
    if not ask.tools or ask.choice == "none" or ask.results:
        return []
    known = {tool.name: tool for tool in ask.tools}
    if ask.choice.startswith("="):
        wanted = [ask.choice[1:]]
    else:
        match = _CALL.search(ask.user)
        named = [match[1], *(_NAME.findall(match[2]))] if match else []
        wanted = [name for name in named if name in known]
        if not wanted and ask.choice == "any":
            wanted = [ask.tools[0].name]
    if not ask.parallel:
        wanted = wanted[:1]
    return [make_call(known[name], digest + index) for index, name in enumerate(wanted) if name in known]


def make_call(tool: Tool, digest: int) -> Call:
    """A call of `tool` with arguments made up from its schema."""
    value = example(tool.schema, tool.name, digest) if tool.schema else {}
    arguments = value if isinstance(value, dict) else {}
    return Call(tool.name, arguments, msgspec.json.encode(arguments).decode())


def example(schema: dict[str, Any], name: str, digest: int) -> Any:
    """A value that fits a JSON schema (or Google's dialect of it), the same for the same `name` and `digest`."""
    return _example(schema, schema, name, digest, 0)


def _example(schema: Any, root: dict[str, Any], name: str, digest: int, depth: int) -> Any:  # noqa: C901 - a table
    if not isinstance(schema, dict) or depth > 12:
        return None
    if "$ref" in schema:
        return _example(_resolve(root, schema["$ref"]), root, name, digest, depth + 1)
    for key in ("anyOf", "oneOf", "allOf", "any_of"):
        if schema.get(key):
            return _example(schema[key][0], root, name, digest, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][digest % len(schema["enum"])]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = next((item for item in kind if item != "null"), "null") if isinstance(kind, list) else kind
    match str(kind).lower():
        case "object":
            inner = schema.get("properties") or {}
            return {key: _example(value, root, key, digest + 1, depth + 1) for key, value in inner.items()}
        case "array":
            count = max(1, int(schema.get("minItems", 2)))
            return [_example(schema.get("items", {}), root, name, digest + i, depth + 1) for i in range(count)]
        case "integer":
            return int(_number(schema, digest % 100))
        case "number":
            return float(_number(schema, digest % 1000 / 10))
        case "boolean":
            return digest % 2 == 0
        case "null":
            return None
    return _string(schema, name, digest)


def _resolve(root: dict[str, Any], reference: str) -> Any:
    node: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _number(schema: dict[str, Any], wish: float) -> float:
    low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
    high = schema.get("maximum", schema.get("exclusiveMaximum", 1e15) - 1)
    return float(max(low, min(high, wish)))


def _string(schema: dict[str, Any], name: str, digest: int) -> str:
    match schema.get("format"):
        case "date":
            return "2025-01-02"
        case "date-time":
            return "2025-01-02T03:04:05Z"
        case "uuid":
            return f"00000000-0000-4000-8000-{digest % 10**12:012d}"
        case "email":
            return "demo@example.com"
    text = f"demo {name} é{digest % 10}"
    return text.ljust(int(schema.get("minLength", 0)), "x")[: int(schema.get("maxLength", 1000))]
