"""A JSON Schema in the subset that Claude's grammar takes. Pure.

In: a client's schema. Out: the same for Claude: objects are closed, and what the grammar cannot hold an answer to
stands in the description, for the model to read, as Anthropic's own SDKs do it. InvalidRequest for an object of any
properties, which has no place there. Called by `adapters.anthropic_request`.
Source: platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema limitations" and "How SDK
transformation works".
"""

from typing import Any

import msgspec

from extproc.adapters.params import refusal
from extproc.errors import InvalidRequest
from extproc.records import Target

Json = dict[str, Any]

_ANNOTATIONS = ("title", "description")
_TAKEN = frozenset({"type", "enum", "const", "required", "additionalProperties", *_ANNOTATIONS})
_NAMED = ("$defs", "definitions", "properties")  # schemas by name
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}  # of a string
)


def narrowed(schema: Json, target: Target, param: str) -> Json:
    """`schema` for Claude. `param`: what a refusal names. Raises InvalidRequest."""
    try:
        return _narrowed(schema, target, param)
    except RecursionError:
        raise InvalidRequest(f"{param}: the schema is nested too deeply.", param=param) from None


def _narrowed(schema: Json, target: Target, param: str) -> Json:
    if "$ref" in schema:  # beside it Claude takes definitions alone
        named = {name: value for name, value in schema.items() if name in ("$defs", "definitions")}
        return {"$ref": schema["$ref"], **_each(named, target, param)}
    found: Json = {}
    told: Json = {}  # what the model is only told
    for name, value in schema.items():
        if name in _TAKEN or _is_taken(name, value):
            found[name] = value
        elif name in _NAMED:
            found |= _each({name: value}, target, param)
        elif name in ("anyOf", "oneOf", "allOf") and isinstance(value, list):
            if name == "allOf" and len(value) > 1:  # closed, each would forbid what the others ask for
                raise refusal(param, target, " with an allOf of several schemas")
            found["allOf" if name == "allOf" else "anyOf"] = [_inner(each, target, param) for each in value]
        elif name == "items":
            found[name] = _inner(value, target, param)
        else:
            told[name] = value
    if _is_open(found):
        if "properties" not in found or found.get("additionalProperties", True) is not True:
            raise refusal(param, target, " with an object of any properties")
        found["additionalProperties"] = False
    if told:
        words = msgspec.json.encode(told).decode()
        found["description"] = f"{found['description']}\n\n{words}" if "description" in found else words
    return found


def _is_taken(name: str, value: Any) -> bool:
    return (name == "format" and str(value) in _FORMATS) or (name == "minItems" and value in (0, 1))


def _is_open(schema: Json) -> bool:
    """Whether it is of objects, and does not say that they have no other properties."""
    kind = schema.get("type")
    named = kind == "object" or (isinstance(kind, list) and "object" in kind)
    return (named or "properties" in schema) and schema.get("additionalProperties") is not False


def _each(named: Json, target: Target, param: str) -> Json:
    return {
        name: {key: _inner(each, target, param) for key, each in found.items()} if isinstance(found, dict) else found
        for name, found in named.items()
    }


def _inner(schema: Any, target: Target, param: str) -> Any:
    return _narrowed(schema, target, param) if isinstance(schema, dict) else schema
