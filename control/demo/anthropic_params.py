"""Anthropic's top-level parameters: known, there, of the right type, in range, allowed together.

In: the decoded JSON body of a request. Out: nothing. Raises Refused, with the path of what is wrong.
"""

import re
from typing import Any

from control.demo.base import Refused, is_number, is_whole

# fmt: off
_PARAMETERS = frozenset({
    "cache_control", "container", "context_management", "inference_geo", "max_tokens", "mcp_servers", "messages",
    "metadata", "model", "output_config", "service_tier", "speed", "stop_sequences", "stream", "system", "temperature",
    "thinking", "tool_choice", "tools", "top_k", "top_p",
})
# fmt: on
_ONE_SAMPLING = re.compile(r"claude-(opus|sonnet|haiku)-4-[5-9]|claude-opus-4-1")  # temperature or top_p, not both
_NO_SAMPLING = re.compile(r"claude-opus-4-[7-9]|claude-[a-z]+-[5-9]")
_KINDS: dict[str, type] = {
    "tools": list,
    "metadata": dict,
    "output_config": dict,
    "stop_sequences": list,
    "stream": bool,
}
EXTRA = "Extra inputs are not permitted"


def invalid(message: str) -> Refused:
    """An `invalid_request_error`."""
    return Refused(400, message)


def check_removed(data: dict[str, Any]) -> None:
    """What API version 2026-10-21 no longer takes, even at the default value."""
    for name in ("temperature", "top_p", "top_k"):
        if name in data:
            raise invalid(f"{name}: {EXTRA}")


def check_parameters(data: dict[str, Any]) -> None:
    """Top-level parameters: known, there, of the right type, in range, allowed together."""
    for name in data:
        if name not in _PARAMETERS:
            raise invalid(f"{name}: {EXTRA}")
    for name in ("model", "max_tokens", "messages"):
        if name not in data:
            raise invalid(f"{name}: Field required")
    if not isinstance(data["model"], str) or not data["model"]:
        raise invalid("model: Input should be a valid string")
    if not is_whole(data["max_tokens"]) or data["max_tokens"] < 1:
        raise invalid("max_tokens: Input should be a valid integer, greater than or equal to 1")
    if not isinstance(data["messages"], list) or not data["messages"]:
        raise invalid("messages: at least one message is required")
    for name, kind in _KINDS.items():
        if not isinstance(data.get(name), kind | None):
            raise invalid(f"{name}: Input should be a valid {kind.__name__}")
    for name in (data.get("metadata") or {}).keys() - {"user_id"}:
        raise invalid(f"metadata.{name}: {EXTRA}")
    _check_sampling(data)
    _check_thinking(data)


def _check_sampling(data: dict[str, Any]) -> None:
    model = data["model"]
    for name, high in (("temperature", 1), ("top_p", 1), ("top_k", 1 << 31)):
        if name not in data:
            continue
        if not is_number(data[name]):
            raise invalid(f"{name}: Input should be a valid number")
        if not 0 <= data[name] <= high:
            raise invalid(f"{name}: range: 0..{high}")
        if _NO_SAMPLING.match(model) and data[name] != 1:
            raise invalid(f"`{name}` is deprecated for this model.")
    if "temperature" in data and "top_p" in data and _ONE_SAMPLING.match(model):
        raise invalid("`temperature` and `top_p` cannot both be specified for this model. Please use only one.")
    stops = data.get("stop_sequences") or []
    if not all(isinstance(stop, str) for stop in stops):
        raise invalid("stop_sequences: Input should be a valid list")
    if not all(stop.strip() for stop in stops):
        raise invalid("stop_sequences: each stop sequence must contain non-whitespace")


def _check_thinking(data: dict[str, Any]) -> None:
    match data.get("thinking"):
        case None | {"type": "disabled" | "adaptive"}:
            return
        case {"type": "enabled", "budget_tokens": int(budget)}:
            if budget < 1024:
                raise invalid("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
            if budget >= data["max_tokens"]:
                raise invalid("`max_tokens` must be greater than `thinking.budget_tokens`.")
            if data.get("temperature", 1) != 1:
                raise invalid("`temperature` may only be set to 1 when thinking is enabled.")
            return
    raise invalid("thinking: Input tag should be one of 'enabled', 'disabled', 'adaptive'")
