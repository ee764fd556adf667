"""The subset of JSON Schema that Anthropic's grammar takes, in `output_config.format` and in strict tools.

In: what the request holds. Out: nothing, or Refused with the path of what is wrong. As its documentation and the errors
that users report say (laravel/ai#715, agentjido/req_llm#302, the-llm-council#55).
"""

from typing import Any

from control.demo.anthropic_params import invalid

_LIMITS = {
    "integer": ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"),
    "number": ("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"),
    "string": ("maxLength", "minLength"),
    "array": ("maxItems", "uniqueItems"),
    "object": ("maxProperties", "minProperties", "patternProperties", "propertyNames"),
}


def check_schema(path: str, schema: Any) -> None:
    """Raises Refused."""
    if not isinstance(schema, dict):
        return
    kinds = schema.get("type")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        _check_kind(path, schema, kind)
    for name in ("$defs", "definitions", "properties"):
        for each in (schema.get(name) or {}).values():
            check_schema(path, each)
    for name in ("anyOf", "allOf"):
        for each in schema.get(name) or ():
            check_schema(path, each)
    check_schema(path, schema.get("items"))


def _check_kind(path: str, schema: dict[str, Any], kind: Any) -> None:
    found = [name for name in _LIMITS.get(kind, ()) if name in schema]
    if len(found) == 1:
        raise invalid(f"{path}: For '{kind}' type, property '{found[0]}' is not supported")
    if found:
        raise invalid(f"{path}: For '{kind}' type, properties {', '.join(found)} are not supported")
    if kind == "array" and schema.get("minItems", 0) not in (0, 1):
        raise invalid(f"{path}: For 'array' type, 'minItems' values other than 0 or 1 are not supported")
    if kind == "object" and schema.get("additionalProperties") is not False:
        raise invalid(f"{path}: For 'object' type, 'additionalProperties' must be explicitly set to false")
