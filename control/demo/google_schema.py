"""The subset of JSON Schema that Google takes, in `responseSchema` and in a function's parameters.

In: what the request holds. Out: the schema, or Refused with the path of what is wrong.
"""

from typing import Any

from control.demo.google_fields import bad_payload, fields_of, invalid

_SCHEMA = {
    "type",
    "format",
    "title",
    "description",
    "nullable",
    "enum",
    "maxItems",
    "minItems",
    "properties",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "example",
    "anyOf",
    "propertyOrdering",
    "default",
    "items",
    "minimum",
    "maximum",
}
_TYPES = {"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"}


def response_schema(config: dict[str, Any]) -> dict[str, Any] | None:
    mime = config.get("responseMimeType", "text/plain")
    if mime not in ("text/plain", "application/json", "text/x.enum"):
        raise invalid("* GenerateContentRequest.generation_config.response_mime_type: allowed mimetypes are ...\n")
    if "responseSchema" in config and "responseJsonSchema" in config:
        raise invalid("* GenerateContentRequest.generation_config: only one of response_schema and json schema\n")
    schema = config.get("responseJsonSchema")
    if "responseSchema" in config:
        schema = check_schema(config["responseSchema"], "generation_config.response_schema")
    if schema is not None and mime == "text/plain":
        raise invalid("Response schema is only supported with response_mime_type application/json.")
    return (schema or {}) if mime == "application/json" else None


def check_schema(schema: Any, path: str) -> dict[str, Any]:
    """A Google `Schema`, an OpenAPI subset; returns it with camelCase keys. Raises Refused for JSON Schema's own."""
    fields = fields_of(schema, _SCHEMA, path)
    kind = fields.get("type")
    if isinstance(kind, list):
        text = f"Invalid JSON payload received. Unknown name \"type\" at '{path}': Proto field is not repeating, "
        raise bad_payload(f"{text}cannot start list.", path)
    if kind is not None and str(kind).upper() not in _TYPES:
        raise bad_payload(f"Invalid value at '{path}.type' (type.googleapis.com/Type), \"{kind}\"", f"{path}.type")
    if not all(isinstance(item, str) for item in fields.get("enum", [])):
        raise bad_payload(f"Invalid value at '{path}.enum' (TYPE_STRING)", f"{path}.enum")
    if "properties" in fields:
        inner = fields["properties"].items()
        fields["properties"] = {
            name: check_schema(value, f"{path}.properties[{at}].value") for at, (name, value) in enumerate(inner)
        }
    for name in fields.get("required", []):
        if name not in fields.get("properties", {}):
            raise invalid(f"* GenerateContentRequest.{path}.required: property is not defined\n")
    if "items" in fields:
        fields["items"] = check_schema(fields["items"], f"{path}.items")
    elif str(kind).upper() == "ARRAY":
        raise invalid(f"* GenerateContentRequest.{path}.items: missing field.\n")
    if "anyOf" in fields:
        fields["anyOf"] = [check_schema(item, f"{path}.any_of[{at}]") for at, item in enumerate(fields["anyOf"])]
    return fields
