"""Content parts of an OpenAI request, read for translation.

In: raw parts. Out: typed values, or InvalidRequest naming the parameter (`messages[0].content[1].image_url`).
Used by the translating request modules. Source: platform.openai.com/docs/api-reference/chat/create.
"""

import re
from typing import Any, TypeVar

import msgspec

from extproc.chat import Message, invalid
from extproc.errors import InvalidRequest
from extproc.records import ChatRequest

T = TypeVar("T")

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w.+=-]+)*?;base64,", re.ASCII)
_HEAD_CHARS = 200  # of a data URL: the rest is data, megabytes of it


class Inline(msgspec.Struct, frozen=True):
    """Data inside the request. `data` is base64; `name`: of the file."""

    media_type: str
    data: str
    name: str | None = None


class Link(msgspec.Struct, frozen=True):
    """Data the provider fetches itself."""

    url: str


class _Text(msgspec.Struct):
    text: str


class _ImageUrl(msgspec.Struct):
    url: str  # `detail` beside it is a hint about cost; Google's word for it is of a whole request, or of Gemini 3 only


class _Image(msgspec.Struct):
    image_url: _ImageUrl | str


class _AudioData(msgspec.Struct):
    data: str
    format: str


class _Audio(msgspec.Struct):
    input_audio: _AudioData


class _FileData(msgspec.Struct):
    file_data: str | None = None
    filename: str | None = None


class _File(msgspec.Struct):
    file: _FileData


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
    return read(part, _Text, at).text


def image(part: dict[str, Any], at: str) -> Inline | Link:
    """The picture of an `image_url` part."""
    found = read(part, _Image, at).image_url
    url = found if isinstance(found, str) else found.url
    return _source(url, f"{at}.image_url.url")


def audio(part: dict[str, Any], at: str) -> Inline:
    """The sound of an `input_audio` part."""
    found = read(part, _Audio, at).input_audio
    return Inline(f"audio/{found.format}", found.data)


def file(part: dict[str, Any], at: str) -> Inline:
    """The file of a `file` part, which must be in the request: ids are known to the provider that gave them only."""
    found = read(part, _File, at).file
    source = _source(found.file_data, f"{at}.file.file_data", found.filename) if found.file_data else None
    if not isinstance(source, Inline):
        raise InvalidRequest(
            f"{at}.file: this model takes files as a base64 data URL in file_data only.", param=f"{at}.file"
        )
    return source


def _source(url: str, param: str, name: str | None = None) -> Inline | Link:
    if url.startswith(("https://", "http://")):
        return Link(url)
    match = _DATA_URL.match(url[:_HEAD_CHARS])
    if not match:
        raise InvalidRequest(f"{param}: must be an https URL or a base64 data URL.", param=param)
    return Inline(match[1], url[match.end() :], name)


def arguments(raw: str, param: str) -> dict[str, Any]:
    """A tool call's arguments as an object. Models and clients write nothing for no arguments."""
    try:
        return msgspec.json.decode(raw, type=dict[str, Any]) if raw.strip() else {}
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise InvalidRequest(f"{param}: must be the text of a JSON object.", param=param) from None


def stops(chat: ChatRequest) -> list[str]:
    """The stop sequences."""
    stop = chat.body.get("stop")
    return [stop] if isinstance(stop, str) else list(stop or ())


class JsonFormat(msgspec.Struct, frozen=True):
    """The answer is to be JSON; of this schema, unless it is None."""

    schema: dict[str, Any] | None


class _JsonSchema(msgspec.Struct):
    schema: dict[str, Any] | None = None
    description: str | None = None


class _Format(msgspec.Struct):
    type: str
    json_schema: _JsonSchema | None = None


def response_format(chat: ChatRequest) -> JsonFormat | None:
    """What `response_format` asks for; None is text."""
    raw = chat.body.get("response_format")
    found = read(raw, _Format, "response_format") if raw else _Format("text")
    if found.type == "text":
        return None
    if found.type == "json_object":
        return JsonFormat(None)
    if found.type == "json_schema" and found.json_schema is not None:
        return JsonFormat(_described(found.json_schema))
    raise InvalidRequest(
        "response_format: must be text, json_object or json_schema with its schema.", param="response_format"
    )


def _described(wanted: _JsonSchema) -> dict[str, Any] | None:
    """The schema, with what OpenAI's models are told beside it."""
    if wanted.schema is None or wanted.description is None:
        return wanted.schema
    return {"description": wanted.description, **wanted.schema}


def refuse_names(conversation: list[Message]) -> None:
    """Raises InvalidRequest where names tell several of one role apart: no other provider is told of them.

    The one name of a role says nothing that the role does not; a tool's stands in its call.
    """
    first: dict[str, str] = {}
    for index, message in enumerate(conversation):
        if message.name and message.role != "tool" and first.setdefault(message.role, message.name) != message.name:
            at = f"messages[{index}].name"
            raise InvalidRequest(f"{at}: this model cannot tell participants of one role apart.", param=at)


def refuse_unknown(message: Message, at: str) -> None:
    """Raises InvalidRequest for what an old or audio conversation holds and no other provider can take."""
    if message.function_call is not None:
        raise InvalidRequest(f"{at}.function_call: use tool_calls.", param=f"{at}.function_call")
    if message.audio is not None:
        raise InvalidRequest(f"{at}.audio: this model takes no audio of an assistant.", param=f"{at}.audio")


def read(raw: object, kind: type[T], at: str) -> T:
    """`raw` as a `kind`. Raises InvalidRequest naming what is wrong with it, from `at` on."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise invalid(error, at) from None
