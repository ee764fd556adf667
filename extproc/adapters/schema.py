"""A JSON Schema of OpenAI's non-strict kind, for providers that take closed objects only. Pure.

In: a schema. Out: the same, closed. Called by `adapters.anthropic_request`.
Source: platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema limitations".
"""

from typing import Any

_ONE = ("items", "contains")
_LISTS = ("anyOf", "oneOf", "prefixItems")  # not allOf: what one part closes, another may add to
_NAMED = ("properties", "$defs", "definitions")


def closed(schema: Any) -> Any:
    """`schema` with `additionalProperties: false` for each object that lists its properties and does not forbid others.

    Whatever fits the closed schema fits the open one too, so nobody gets what they did not ask for. An object that
    lists none stays as it is: closed, it would be empty.
    """
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    for name in _ONE:
        if name in found:
            found[name] = closed(found[name])
    for name in _LISTS:
        if isinstance(found.get(name), list):
            found[name] = [closed(each) for each in found[name]]
    for name in _NAMED:
        if isinstance(found.get(name), dict):
            found[name] = {key: closed(each) for key, each in found[name].items()}
    if found.get("properties") and found.get("additionalProperties", True) is True and "allOf" not in found:
        found["additionalProperties"] = False
    return found
