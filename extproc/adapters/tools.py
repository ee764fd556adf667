"""Tools of an OpenAI request and the choice among them, read for translation.

In: a ChatRequest. Out: the Offer, what the model may call; or InvalidRequest naming the parameter. Used by the
translating request modules. Source: platform.openai.com/docs/api-reference/chat/create.
"""

from typing import Any, Literal

import msgspec

from extproc.adapters.parts import read
from extproc.errors import InvalidRequest
from extproc.records import ChatRequest, Target


class Function(msgspec.Struct, frozen=True):
    """A function a model may call. `parameters`: JSON Schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(msgspec.Struct):
    type: str
    function: Function | None = None
    cache_control: dict[str, Any] | None = None


class _NamedFunction(msgspec.Struct):
    name: str


class _Named(msgspec.Struct):
    type: str
    function: _NamedFunction | None = None


class _AllowedFunction(msgspec.Struct):
    type: Literal["function"]
    function: _NamedFunction


class _AllowedTools(msgspec.Struct):
    mode: Literal["auto", "required"]
    tools: list[_AllowedFunction]


class _Allowed(msgspec.Struct):
    allowed_tools: _AllowedTools


class Offer(msgspec.Struct, frozen=True):
    """The functions a model may call, each with the `cache_control` beside it, and whether it must.

    `choice`: auto, none, required, or function: the one of this `name`.
    """

    functions: list[tuple[Function, dict[str, Any] | None]]
    choice: str = "auto"
    name: str | None = None


def offer(chat: ChatRequest, target: Target) -> Offer:
    """The tools, and what `tool_choice` says of them. Raises InvalidRequest for one that is not there."""
    functions = _functions(chat, target)
    choice = chat.body.get("tool_choice") or "auto"
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        return _allowed(functions, read(choice, _Allowed, "tool_choice").allowed_tools)
    kind, name = (choice, None) if isinstance(choice, str) else _named(choice)
    if kind not in ("auto", "none", "required", "function") or (kind == "function") != (name is not None):
        raise InvalidRequest(
            "tool_choice: must be auto, none, required, allowed_tools or the name of a function for this model.",
            param="tool_choice",
        )
    if kind in ("required", "function") and not functions:
        raise InvalidRequest("tool_choice: there are no tools to choose from.", param="tool_choice")
    if name is not None:
        _check_offered(functions, {name})
    return Offer(functions, kind, name)


def _allowed(functions: list[tuple[Function, dict[str, Any] | None]], allowed: _AllowedTools) -> Offer:
    """Of several tools some: no other provider has such a list, but a model calls none that it is not shown."""
    names = {tool.function.name for tool in allowed.tools}
    if not names:
        raise InvalidRequest("tool_choice.allowed_tools.tools: there are none.", param="tool_choice")
    _check_offered(functions, names)
    return Offer([(function, mark) for function, mark in functions if function.name in names], allowed.mode)


def _check_offered(functions: list[tuple[Function, dict[str, Any] | None]], names: set[str]) -> None:
    if names - {function.name for function, _ in functions}:
        raise InvalidRequest("tool_choice: names a function that is not among the tools.", param="tool_choice")


def _functions(chat: ChatRequest, target: Target) -> list[tuple[Function, dict[str, Any] | None]]:
    found = []
    for index, raw in enumerate(chat.body.get("tools") or ()):
        tool = read(raw, _Tool, f"tools[{index}]")
        if tool.type != "function":
            param = f"tools[{index}].type"
            raise InvalidRequest(f"{param}: {target.model} takes function tools only.", param=param)
        if tool.function is None:
            raise InvalidRequest(f"tools[{index}].function: is required.", param=f"tools[{index}].function")
        found.append((tool.function, tool.cache_control))
    return found


def _named(choice: dict[str, Any]) -> tuple[str, str | None]:
    found = read(choice, _Named, "tool_choice")
    return found.type, found.function.name if found.function else None
