"""The OpenAI-compatible endpoints: what the gateway reads of a request, and what it adds to an answer.

Schemas by hand, open to whatever else OpenAI's API has: what the gateway does not read it passes on.
"""

from typing import Any, Final

TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "number"}
_WHOLE: Final = {"type": "integer", "minimum": 0}


def _object(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties}


MESSAGE: Final = _object(
    "role",
    role={"type": "string", "enum": ["system", "developer", "user", "assistant", "tool"]},
    content={"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}, {"type": "null"}]},
)
METADATA: Final = {
    "type": "object",
    "description": "OpenAI's, and what the gateway takes from it.",
    "properties": {
        "team_id": {"type": "string", "description": "403 unless it is the key's team."},
        "priority": {"type": "string", "enum": ["low", "normal", "high"]},
        "routing": {"type": "string", "enum": ["cost", "balanced", "quality"]},
        "fallback": {"description": "false: this model or none."},
        "bypass_cache": {"description": "true: neither answered from the cache nor kept."},
    },
}
REQUEST: Final = _object(
    "model messages",
    model={"type": "string", "minLength": 1, "description": "A model's name, or auto.", "examples": ["auto"]},
    messages={"type": "array", "minItems": 1, "items": MESSAGE},
    stream={"type": "boolean", "default": False},
    stream_options=_object("", include_usage={"type": "boolean"}),
    max_tokens={"type": "integer", "minimum": 1},
    max_completion_tokens={"type": "integer", "minimum": 1},
    temperature={"type": "number", "minimum": 0, "maximum": 2},
    n={"type": "integer", "minimum": 1},
    metadata=METADATA,
) | {"description": "Any other member of OpenAI's API is passed on, or translated."}

USAGE: Final = _object(
    "prompt_tokens completion_tokens total_tokens",
    prompt_tokens=_WHOLE,
    completion_tokens=_WHOLE,
    total_tokens=_WHOLE,
    cost_usd={"anyOf": [_NUMBER, {"type": "null"}], "description": "null: the price of a part is not known."},
)
GATEWAY: Final = _object(
    "request_id routing_decision cache_hit attempts",
    request_id={"type": "string"},
    routing_decision={"type": "string"},
    cache_hit={"type": "boolean"},
    gateway_latency_ms=_NUMBER,
    total_latency_ms=_NUMBER,
    attempts={"type": "integer"},
)
CHOICE: Final = _object(
    "index message finish_reason",
    index=_WHOLE,
    message=MESSAGE,
    finish_reason={"type": ["string", "null"]},
)
COMPLETION: Final = _object(
    "id object created model choices",
    id={"type": "string"},
    object={"const": "chat.completion"},
    created={"type": "integer"},
    model={"type": "string", "description": "The gateway's name of the model that answered."},
    choices={"type": "array", "items": CHOICE},
    usage=USAGE,
    routed_from={"type": "string", "description": "The model that was asked for."},
    provider={"type": "string"},
    gateway_metadata=GATEWAY,
)
STREAM: Final = {
    "type": "string",
    "description": "With stream: true, server-sent events: chat.completion.chunk objects, then [DONE]; an error object"
    " and no [DONE] where the answer could not be finished.",
}
MODEL: Final = _object(
    "id object created owned_by",
    id={"type": "string"},
    object={"const": "model"},
    created={"type": "integer"},
    owned_by={"type": "string"},
)
MODELS: Final = _object("object data", object={"const": "list"}, data={"type": "array", "items": MODEL})
