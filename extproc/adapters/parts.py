"""Content parts and tools of an OpenAI request, read for translation.

In: raw parts and tools. Out: typed values, or InvalidRequest naming the parameter (`messages[0].content[1].image_url`).
Used by the translating request modules. Source: platform.openai.com/docs/api-reference/chat/create.
"""

import re
from typing import Any, TypeVar

import msgspec

from extproc.chat import Message, invalid
from extproc.errors import InvalidRequest
from extproc.records import ChatRequest, Target

T = TypeVar("T")

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w.+=-]+)*?;base64,", re.ASCII)
_HEAD_CHARS = 200  # of a data URL: the rest is data, megabytes of it


class Inline(msgspec.Struct, frozen=True):
    """Data inside the request. `data` is base64."""

    media_type: str
    data: str


class Link(msgspec.Struct, frozen=True):
    """Data the provider fetches itself."""

    url: str


class _Text(msgspec.Struct):
    text: str


class _ImageUrl(msgspec.Struct):
    url: str  # `detail` beside it is a hint about cost, which no other provider has


class _Image(msgspec.Struct):
    image_url: _ImageUrl | str


class _AudioData(msgspec.Struct):
    data: str
    format: str


class _Audio(msgspec.Struct):
    input_audio: _AudioData


class _FileData(msgspec.Struct):
    file_data: str | None = None


class _File(msgspec.Struct):
    file: _FileData


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


def listed(content: str | list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Content as parts. No content is no parts; nor is an empty text one, which other providers refuse."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    return [part for part in content or () if part["type"] != "text" or part.get("text") != ""]


def add_turn(turns: list[dict[str, Any]], role: str, field: str, found: list[dict[str, Any]]) -> None:
    """Turns alternate: what the same role says next joins the `field` of its last turn, tool results and the user's
    next words among them."""
    if not found:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1][field] += found
    else:
        turns.append({"role": role, field: found})


def text(part: dict[str, Any], at: str) -> str:
    """The text of a `text` part."""
    return _read(part, _Text, at).text


def image(part: dict[str, Any], at: str) -> Inline | Link:
    """The picture of an `image_url` part."""
    found = _read(part, _Image, at).image_url
    url = found if isinstance(found, str) else found.url
    return _source(url, f"{at}.image_url.url")


def audio(part: dict[str, Any], at: str) -> Inline:
    """The sound of an `input_audio` part."""
    found = _read(part, _Audio, at).input_audio
    return Inline(f"audio/{found.format}", found.data)


def file(part: dict[str, Any], at: str) -> Inline:
    """The file of a `file` part, which must be in the request: ids are known to the provider that gave them only."""
    data = _read(part, _File, at).file.file_data
    source = _source(data, f"{at}.file.file_data") if data else None
    if not isinstance(source, Inline):
        raise InvalidRequest(
            f"{at}.file: this model takes files as a base64 data URL in file_data only.", param=f"{at}.file"
        )
    return source


def _source(url: str, param: str) -> Inline | Link:
    if url.startswith(("https://", "http://")):
        return Link(url)
    match = _DATA_URL.match(url[:_HEAD_CHARS])
    if not match:
        raise InvalidRequest(f"{param}: must be an https URL or a base64 data URL.", param=param)
    return Inline(match[1], url[match.end() :])


def arguments(raw: str, param: str) -> dict[str, Any]:
    """A tool call's arguments as an object. Models and clients write nothing for no arguments."""
    try:
        return msgspec.json.decode(raw, type=dict[str, Any]) if raw.strip() else {}
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise InvalidRequest(f"{param}: must be the text of a JSON object.", param=param) from None


def functions(chat: ChatRequest, target: Target) -> list[tuple[Function, dict[str, Any] | None]]:
    """The functions offered to the model, each with the `cache_control` beside it, if any."""
    found = []
    for index, raw in enumerate(chat.body.get("tools") or ()):
        tool = _read(raw, _Tool, f"tools[{index}]")
        if tool.type != "function":
            param = f"tools[{index}].type"
            raise InvalidRequest(f"{param}: {target.model} takes function tools only.", param=param)
        if tool.function is None:
            raise InvalidRequest(f"tools[{index}].function: is required.", param=f"tools[{index}].function")
        found.append((tool.function, tool.cache_control))
    return found


def tool_choice(chat: ChatRequest, names: list[str]) -> tuple[str, str | None]:
    """`auto`, `none` or `required`, or `function` with its name. Checked against the names of the tools offered."""
    choice = chat.body.get("tool_choice") or "auto"
    kind, name = (choice, None) if isinstance(choice, str) else _named(choice)
    if kind not in ("auto", "none", "required", "function") or (kind == "function") != (name is not None):
        raise InvalidRequest(
            "tool_choice: must be auto, none, required or the name of a function for this model.", param="tool_choice"
        )
    if kind in ("required", "function") and not names:
        raise InvalidRequest("tool_choice: there are no tools to choose from.", param="tool_choice")
    if name is not None and name not in names:
        raise InvalidRequest("tool_choice: names a function that is not among the tools.", param="tool_choice")
    return kind, name


def _named(choice: dict[str, Any]) -> tuple[str, str | None]:
    found = _read(choice, _Named, "tool_choice")
    return found.type, found.function.name if found.function else None


def stops(chat: ChatRequest) -> list[str]:
    """The stop sequences."""
    stop = chat.body.get("stop")
    return [stop] if isinstance(stop, str) else list(stop or ())


class JsonFormat(msgspec.Struct, frozen=True):
    """The answer is to be JSON; of this schema, unless it is None."""

    schema: dict[str, Any] | None


class _JsonSchema(msgspec.Struct):
    schema: dict[str, Any] | None = None


class _Format(msgspec.Struct):
    type: str
    json_schema: _JsonSchema | None = None


def response_format(chat: ChatRequest) -> JsonFormat | None:
    """What `response_format` asks for; None is text."""
    raw = chat.body.get("response_format")
    found = _read(raw, _Format, "response_format") if raw else _Format("text")
    if found.type == "text":
        return None
    if found.type == "json_object":
        return JsonFormat(None)
    if found.type == "json_schema" and found.json_schema is not None:
        return JsonFormat(found.json_schema.schema)
    raise InvalidRequest(
        "response_format: must be text, json_object or json_schema with its schema.", param="response_format"
    )


def refuse_unknown(message: Message, at: str) -> None:
    """Raises InvalidRequest for what an old or audio conversation holds and no other provider can take."""
    if message.function_call is not None:
        raise InvalidRequest(f"{at}.function_call: use tool_calls.", param=f"{at}.function_call")
    if message.audio is not None:
        raise InvalidRequest(f"{at}.audio: this model takes no audio of an assistant.", param=f"{at}.audio")


def _read(raw: object, kind: type[T], at: str) -> T:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise invalid(error, at) from None
