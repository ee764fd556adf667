"""Google's proto JSON: a message's fields by either spelling, and how a wrong one is refused.

In: a decoded JSON value and its path. Out: its fields in camelCase; Refused where it is not what the path holds.
"""

import re
from typing import Any

from control.demo.base import Refused

_SNAKE = re.compile(r"_([a-z0-9])")


def invalid(message: str) -> Refused:
    return Refused(400, message)


def fields_of(value: Any, allowed: set[str], path: str) -> dict[str, Any]:
    """`value` as an object with camelCase keys. Raises Refused for any other value, and for a field not allowed."""
    if not isinstance(value, dict):
        raise bad_payload(f"Invalid value at '{path}' (type.googleapis.com/google.protobuf.Struct)", path)
    out = {}
    for key, item in value.items():
        name = _SNAKE.sub(lambda match: match[1].upper(), key)
        if name not in allowed:
            at = f" at '{path}'" if path else ""
            raise bad_payload(f'Invalid JSON payload received. Unknown name "{key}"{at}: Cannot find field.', path)
        if item is not None:
            out[name] = item
    return out


def bad_payload(text: str, path: str) -> Refused:
    violation = {"field": path, "description": text} if path else {"description": text}
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}]
    return Refused(400, text, details=details)


def listed(value: Any, path: str) -> list[Any]:
    # Proto JSON takes a single message for a repeated field.
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list):
        raise bad_payload(f"Invalid value at '{path}': not a list.", path)
    return value
