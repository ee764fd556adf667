"""The OpenAPI document, made of the table of operations and the types of answers and bodies.

In: `operations`, `answers`, the types of gateway.yaml. Out: a JSON object, the same for every caller: it tells nothing
of teams or keys. Source: spec.openapis.org/oas/v3.1.0.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any, Final

import msgspec

from control.openapi import answers
from control.openapi.chat import STREAM
from control.openapi.operation import PARAMETERS, PATH_PARAMETERS, Operation, Schema, duration
from control.openapi.operations import OPERATIONS
from extproc.settings import Team
from extproc.settings.fields import Section

_REF: Final = "#/components/schemas/"
_OPEN: Final = frozenset({"Change"})  # types that leave out what has nothing to say
_CHAT: Final = "/v1/chat/completions"
_DESCRIPTION: Final = (
    "One OpenAI-compatible endpoint in front of every provider, and what its operators need. Errors are OpenAI's;"
    " `code` tells them apart."
)


@cache
def document() -> dict[str, Any]:
    """The document."""
    components, refs = _components()
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "LLM gateway", "version": version("llm-gateway"), "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in OPERATIONS)],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "A team's or admin key."}},
        },
    }


def _operation(operation: Operation, refs: Mapping[Any, Schema]) -> dict[str, Any]:
    said: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "x-access": operation.access,
        "responses": _responses(operation, refs),
    }
    if operation.access == "anyone":
        said["security"] = []
    parameters = list(_parameters(operation))
    if parameters:
        said["parameters"] = parameters
    if operation.body is not None:
        content = {"application/json": {"schema": _schema(operation.body, refs)}}
        said["requestBody"] = {"required": operation.body_required, "content": content}
    return said


def _parameters(operation: Operation) -> Iterable[dict[str, Any]]:
    for part in operation.path.split("/"):
        name = part.strip("{}")
        if part != name:
            schema = {"type": "string", "minLength": 1}
            about = PATH_PARAMETERS[name]
            yield {"name": name, "in": "path", "required": True, "schema": schema, "description": about}
    for place, names in (("query", operation.query), ("header", operation.headers)):
        for name in names:
            yield {"name": name, "in": place, "required": place == "header", "schema": PARAMETERS[name]}


def _responses(operation: Operation, refs: Mapping[Any, Schema]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": operation.summary}
    if operation.content_type:
        good["content"] = {operation.content_type: {"schema": _schema(operation.answer, refs)}}
    if operation.path == _CHAT:
        good["content"]["text/event-stream"] = {"schema": STREAM}
    error = {"application/json": {"schema": {"$ref": f"{_REF}Error"}}}
    bad = {"4XX": "The request is wrong.", "5XX": "It cannot be served now."}
    if operation.access != "anyone":
        bad |= {"401": "No valid key.", "429": "Too many failed authentications, or over a limit."}
    if operation.access not in ("anyone", "any key"):
        bad["403"] = "The key is not for this."
    named = {status: {"description": text, "content": error} for status, text in sorted(bad.items())}
    return {str(operation.status): good} | named


def _schema(kind: Any, refs: Mapping[Any, Schema]) -> Schema:
    if isinstance(kind, dict):
        return kind
    return {"$ref": f"{_REF}{kind}"} if isinstance(kind, str) else refs[kind]


def _components() -> tuple[dict[str, Any], dict[Any, Schema]]:
    """All named schemas, and where each type is among them."""
    kinds = [answers.Error, *(o.answer for o in OPERATIONS if isinstance(o.answer, type))]
    refs, components = _of_types(kinds)
    for name, schema in components.items():
        if name not in _OPEN and "properties" in schema:
            schema |= {"required": list(schema["properties"]), "additionalProperties": False}
    bodies = [o.body for o in OPERATIONS if isinstance(o.body, type)]
    body_refs, wanted = _of_types(bodies)
    for schema in wanted.values():
        schema["additionalProperties"] = False
        for name, about in _DURATIONS.items():
            if name in schema["properties"]:
                schema["properties"][name] = duration(about, null="null" in about)
    return components | wanted | _of_gateway_yaml(), refs | body_refs


_DURATIONS: Final = {
    "expires_in": "How long the key holds; null: for ever. Not given: as long as the one it replaces was made for.",
    "overlap": "How long the old key holds beside the new one; 24h, if this is not given.",
}


def _of_types(kinds: list[type]) -> tuple[dict[Any, Schema], dict[str, Any]]:
    found, components = msgspec.json.schema_components(kinds, schema_hook=_section, ref_template=_REF + "{name}")
    return dict(zip(kinds, found, strict=True)), components


def _section(kind: type) -> dict[str, Any]:
    """A part of gateway.yaml inside an answer."""
    if issubclass(kind, Section):
        return {"$ref": f"{_REF}{kind.__name__}"}
    raise NotImplementedError


def _of_gateway_yaml() -> dict[str, Any]:
    """The parts of a team; a new team, and the change of one."""
    team = Team.model_json_schema(ref_template=_REF + "{model}")
    wish = {name: _without_default(part) for name, part in team["properties"].items() if name not in ("id", "keys")}
    new = {"id": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,99}$"}}
    common = {"type": "object", "additionalProperties": False}
    sections: dict[str, Any] = team["$defs"]
    return sections | {
        "NewTeam": common | {"description": "Only id is needed.", "required": ["id"], "properties": new | wish},
        "TeamChange": common | {"description": "What is not named stays; null is no limit.", "properties": wish},
    }


def _without_default(schema: Schema) -> Schema:
    return {name: value for name, value in schema.items() if name != "default"}
