"""A client's request body: bytes -> ChatRequest, and what the gateway itself reads in it.

In: the body bytes of `POST /v1/chat/completions`. Out: a `ChatRequest` whose `body` is the client's object untouched,
or InvalidRequest that names the parameter. Strict about the types of what every provider needs, tolerant of all else:
unknown fields and unknown kinds of content part pass. Called by `extproc.pipeline`; the translating adapters read the
conversation through `messages`. Source of the shapes: platform.openai.com/docs/api-reference/chat/create.
"""

import asyncio
import hashlib
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

import msgspec
from blake3 import blake3

from extproc.body.members import parted, scanned
from extproc.body.surrogates import repaired
from extproc.body.values import MOST, too_many
from extproc.errors import InvalidRequest, RequestTooLarge, in_json_words
from extproc.records import ChatRequest, Feature, Large, Priority, Wish

_CHOICES = {"priority": get_args(Priority), "routing": get_args(Wish)}
GATEWAY_KEYS = frozenset({"team_id", "priority", "bypass_cache", "routing", "fallback"})

_AT = re.compile(r" - at `\$\.?([^`]*)`$")
_MISSING = re.compile(r"^Object missing required field `([^`]+)`")

LARGE_BYTES = 256 * 1024

_TOO_DEEP = "The request body is nested too deeply."

_Name = Annotated[str, msgspec.Meta(min_length=1)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Object = dict[str, Any]


class _Typed(msgspec.Struct):
    """Anything told apart by its `type`: content parts and tools, of kinds known or not."""

    type: str


class FunctionCall(msgspec.Struct, frozen=True):
    """What an assistant called: `arguments` is JSON text."""

    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct, frozen=True):
    """One call in an assistant's message. `function` is None for kinds we do not know."""

    id: str
    type: str = "function"
    function: FunctionCall | None = None
    extra_content: _Object | None = None  # Google's own OpenAI surface keeps thought signatures here


class Message(msgspec.Struct, frozen=True):
    """One message, as the translating adapters read it. Content parts stay raw: each provider knows its own kinds."""

    role: str
    content: str | list[_Object] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    audio: _Object | None = None
    function_call: _Object | None = None


class _CheckedMessage(msgspec.Struct):
    role: str
    content: str | list[_Typed] | None = None
    tool_calls: list[_Object] | None = None
    tool_call_id: str | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(msgspec.Struct):
    """The parameters that the gateway reads, or that every provider types alike."""

    model: _Name
    messages: Annotated[list[_CheckedMessage], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    tools: list[_Typed] | None = None
    tool_choice: str | _Object | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Object | None = None
    reasoning_effort: str | None = None
    metadata: _Object | None = None
    user: str | None = None
    safety_identifier: str | None = None


class GatewayMetadata(msgspec.Struct, frozen=True):
    """The keys of `metadata` that are meant for the gateway; they never reach a provider."""

    team_id: str | None = None
    priority: Priority = "normal"
    bypass_cache: bool = False
    routing: Wish = "balanced"
    fallback: bool = True  # False: one attempt, no other provider


_NO_WISHES = GatewayMetadata()


async def read_chat(body: bytes) -> ChatRequest:
    """The request in `body`, of any size. Raises InvalidRequest, naming the parameter where one is wrong, and
    RequestTooLarge where its values are too many.

    Of a large one the conversation is hashed in a thread, which needs no GIL; in between others have their turn. 10 MiB
    hold up the event loop for 1 and 5 ms (13 of Japanese).
    """
    if len(body) <= LARGE_BYTES:
        return parse_chat(body)
    if too_many(body):
        raise RequestTooLarge(f"The request body has more than {MOST:,} JSON values.")
    for part in (parted, scanned):
        try:
            found = part(body)
            if found is None:
                continue
            digest = await asyncio.to_thread(_blake3, found.messages)
            decoded = {**found.rest, "messages": msgspec.json.decode(found.messages)}
        except (KeyError, RecursionError, ValueError):  # of these is what msgspec raises
            continue
        return _checked(decoded, body, Large(found.members, digest))
    return parse_chat(body)  # to say what is wrong with it


def _blake3(data: memoryview) -> str:
    return blake3(data).hexdigest()


def parse_chat(body: bytes) -> ChatRequest:
    """The request in `body`, read at once. Raises InvalidRequest, naming the parameter where one is wrong."""
    return _checked(_decode(body), body, None)


def _checked(decoded: _Object, body: bytes, large: Large | None) -> ChatRequest:
    try:
        checked = msgspec.convert(decoded, _Body)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    return ChatRequest(
        body=decoded,
        text=body,
        large=large,
        model=checked.model,
        stream=bool(checked.stream),
        include_usage=bool(checked.stream_options and checked.stream_options.include_usage),
        n=checked.n or 1,
        max_tokens=checked.max_completion_tokens or checked.max_tokens,
    )


def _decode(body: bytes) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(body)
    except RecursionError:
        raise InvalidRequest(_TOO_DEEP) from None
    except (msgspec.DecodeError, ValueError) as error:  # ValueError: not UTF-8
        raise InvalidRequest(_why_unreadable(body, str(error))) from None
    if not isinstance(decoded, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    return decoded


def _why_unreadable(body: bytes, reason: str) -> str:
    try:
        body.decode()
    except UnicodeDecodeError:
        return "The request body is not valid UTF-8."
    if repaired(body) != body:
        return "The request body has half of a surrogate pair, which is not Unicode text."
    return f"The request body is not valid JSON: {_AT.sub('', reason).rstrip('.')}."


def invalid(error: msgspec.ValidationError, prefix: str = "") -> InvalidRequest:
    """msgspec's finding as a 400: the path in it becomes `param`, put after `prefix` (as in `messages[2]`)."""
    text = str(error)
    at = _AT.search(text)
    path = at[1] if at else ""
    if missing := _MISSING.match(text):
        path, text = f"{path}.{missing[1]}" if path else missing[1], " is required"
    else:
        text = in_json_words(text[: at.start()] if at else text)
        text = f": {text[0].lower()}{text[1:]}" if prefix or path else text
    separator = "." if prefix and path and not path.startswith("[") else ""
    param = f"{prefix}{separator}{path}"
    return InvalidRequest(f"{param}{text}.", param=param or None)


def messages(chat: ChatRequest) -> list[Message]:
    """The conversation, typed. Raises InvalidRequest where a tool call or another known field has a wrong type."""
    try:
        return msgspec.convert(chat.body["messages"], list[Message])
    except msgspec.ValidationError as error:
        raise invalid(error, "messages") from None


def rewritten(chat: ChatRequest, rewrite: str) -> ChatRequest:
    """`chat` with the instructions `rewrite` before its own: what a model is asked that stands in for another."""
    if not rewrite:
        return chat
    said = [{"role": "system", "content": rewrite}, *chat.body["messages"]]
    return msgspec.structs.replace(chat, body={**chat.body, "messages": said}, text=b"", large=None)


def texts(chat: ChatRequest) -> Iterator[str]:
    """Every text of the conversation, in order."""
    for message in chat.body["messages"]:
        content = message.get("content")
        if isinstance(content, str):
            yield content
        for part in content if isinstance(content, list) else ():
            if isinstance(part.get("text"), str):
                yield part["text"]


def features(chat: ChatRequest) -> frozenset[Feature]:
    """What the request asks of a model beyond text."""
    body = chat.body
    found: list[Feature] = []
    if body.get("tools"):
        found.append("tools")
    if (body.get("response_format") or {}).get("type") == "json_schema":
        found.append("json_schema")
    for message in body["messages"]:
        content = message.get("content")
        if isinstance(content, list) and any(part["type"] == "image_url" for part in content):
            found.append("vision")
            break
    return frozenset(found)


def text_chars(chat: ChatRequest) -> int:
    """Characters of all message texts: what `auto` routing goes by."""
    return sum(map(len, texts(chat)))


def prompt_hash(chat: ChatRequest) -> str:
    """SHA-256, hex, of the conversation in canonical JSON: key order and spacing do not matter.

    Of a large request's, BLAKE3 as it was sent: to write 10 MiB anew only to hash them would hold up all others for
    15 ms, and SHA-256 takes 7 to 9 ms of CPU, BLAKE3 2 (no less hard to find two texts for: 256 bits).
    """
    if chat.large is not None:
        return chat.large.messages_hash
    return hashlib.sha256(encoded(chat.body["messages"], order="sorted")).hexdigest()


def encoded(value: object, order: Literal["sorted"] | None = None) -> bytes:
    """JSON of what came from a client. Raises InvalidRequest: what could just be read may be too deep to write."""
    try:
        return msgspec.json.encode(value, order=order)
    except RecursionError:
        raise InvalidRequest(_TOO_DEEP) from None


def gateway_metadata(chat: ChatRequest) -> GatewayMetadata:
    """The gateway's own keys in `metadata`. Raises InvalidRequest naming `metadata.<key>`."""
    given = chat.body.get("metadata")
    if not given:
        return _NO_WISHES
    values = {key: _flag(key, given[key]) for key in GATEWAY_KEYS & given.keys() if given[key] is not None}
    for key, known in _CHOICES.items():
        if key in values and values[key] not in known:
            listed = f"{', '.join(known[:-1])} or {known[-1]}"
            raise InvalidRequest(f"metadata.{key}: must be {listed}.", param=f"metadata.{key}")
    try:
        return msgspec.convert(values, GatewayMetadata)
    except msgspec.ValidationError as error:
        raise invalid(error, "metadata") from None


def _flag(key: str, value: object) -> object:
    """OpenAI's metadata values are strings, so typed SDKs can only write "true" and "false"."""
    if key in ("bypass_cache", "fallback") and isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower(), value)
    return value


def client_metadata(chat: ChatRequest) -> dict[str, Any] | None:
    """What is left of `metadata` for the provider; None when nothing is (OpenAI refuses an empty leftover)."""
    given = chat.body.get("metadata") or {}
    return {key: value for key, value in given.items() if key not in GATEWAY_KEYS} or None
