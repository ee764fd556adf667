"""OpenAI Chat Completions, and Azure's: pass-through. What we do not know survives, both ways.

In: a client's request; a provider's chunks. Out: the same, with the model's names exchanged, our metadata keys taken
out, and usage asked for, as far as the server takes such (`Target.unsupported`). Made by `adapters.registry`.
Source: platform.openai.com/docs/api-reference/chat; learn.microsoft.com/azure/ai-services/openai/reference.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from extproc.adapters import toolids
from extproc.adapters.base import Chunk
from extproc.adapters.failures import CONTEXT_LENGTH_EXCEEDED, Problem, classify, retry_after_s
from extproc.adapters.params import HARMLESS, NEUTRAL, check_stream_options, refusal
from extproc.adapters.reader import AnswerReader, decode
from extproc.adapters.toolcalls import ToolCalls, textual
from extproc.adapters.usage import from_openai
from extproc.body.pieces import Body
from extproc.body.splice import DROP, spliced
from extproc.body.sse import Event
from extproc.chat import client_metadata, encoded
from extproc.errors import GatewayError
from extproc.records import ChatRequest, ProviderRequest, Target

_ENVELOPE = frozenset({"id", "object", "created", "model", "choices", "usage"})
_OBJECT = msgspec.json.Decoder(dict[str, Any])

FAILED = "error"  # OpenRouter's finish_reason of an answer that is none; envoy/native_stream.lua goes by it too

# The status an error inside a 200 stream would have had. Source: platform.openai.com/docs/guides/error-codes.
_STATUS_OF = {
    CONTEXT_LENGTH_EXCEEDED: 400,
    "invalid_request_error": 400,
    "content_filter": 400,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "requests": 429,
    "tokens": 429,
}


# Among the parameters that a server refuses: this role of messages; ids of tool calls unlike Mistral's; to number the
# calls of its answers as OpenAI does; members of messages, of their parts and of tools that other providers' models or
# users have put there, for those alone.
DEVELOPER = "developer"
TOOL_CALL_ID = "tool_call_id"
TOOL_CALL_INDEX = "tool_call_index"
_MEMBERS = frozenset({"reasoning", "reasoning_content", "reasoning_details", "cache_control"})
# What OpenAI's answers have, and so do ours, though it says nothing: whoever refuses _MEMBERS refuses these too.
_EMPTY = frozenset({"refusal", "annotations", "audio", "function_call"})
_NEUTRAL = {**NEUTRAL, "temperature": (1,), "top_p": (1,)}  # which all who translate have words for
# Two names of one limit: a server that refuses one of them takes the other.
_OTHER_NAME = {"max_completion_tokens": "max_tokens", "max_tokens": "max_completion_tokens"}


class _Message(msgspec.Struct):
    tool_calls: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    finish_reason: str | None = None
    error: Any = None  # OpenRouter's, of an answer that is none
    delta: _Message | None = None
    message: _Message | None = None


class _Chunk(msgspec.Struct):
    """What we touch of a chunk or a completion; the rest is passed on unread."""

    choices: list[_Choice]
    usage: dict[str, Any] | None = None


class OpenAIAdapter(AnswerReader):
    """One attempt at a provider that speaks OpenAI's format."""

    _wanted = 1  # choices asked for

    def __init__(self, target: Target, response_id: str, created: int, stream: bool) -> None:
        super().__init__(target, response_id, created, stream)
        self._calls: dict[int, ToolCalls] = {}  # by choice
        self._ahead: Chunk = {}  # what was said of the answer before it began

    def request(self, chat: ChatRequest) -> ProviderRequest:
        """The client's body with the provider's model name, without the gateway's metadata."""
        self._wanted = chat.n
        changes = _changes(chat, self._target)
        known = chat.large.members if chat.large else None
        body: Body | None = spliced(chat.text, changes, known) if chat.text else None
        if body is None:
            body = encoded({name: value for name, value in {**chat.body, **changes}.items() if value is not DROP})
        return ProviderRequest("/chat/completions", (("content-type", "application/json"),), body)

    def _on_event(self, event: Event) -> list[Chunk]:
        if self._complete:
            return []
        if event.data.strip() == b"[DONE]":
            self._complete = True
            return []
        chunk = decode(_OBJECT, event.data)
        error = _said(chunk) or (chunk if event.name == b"error" else None)
        if error:
            self._fail(_status_inside(error), _problem(error))
            return []
        if chunk.get("choices") is None:
            if not chunk.get("usage"):
                return []  # not a chunk: nothing a client of this API could read
            chunk["choices"] = []
        self._note(chunk)
        if self._error is not None:
            return []
        if not chunk["choices"] and not chunk.get("usage"):
            # Azure's first says how the prompt was filtered: clients that read a choice of every chunk break on it.
            self._ahead |= {name: value for name, value in chunk.items() if name not in _ENVELOPE}
            return []
        for choice in chunk["choices"]:
            self._mend(choice)
        chunk, self._ahead = self._ahead | chunk, {}
        chunk["model"] = self._target.model
        chunk["object"] = "chat.completion.chunk"  # Azure leaves it empty in those of its filter
        chunk.setdefault("id", self._response_id)
        chunk.setdefault("created", self._created)
        return [chunk]

    def _mend(self, choice: dict[str, Any]) -> None:
        """Put in what clients go by and a provider left out: a delta (Azure's asynchronous filter), calls' indexes."""
        choice["delta"] = delta = choice.get("delta") or {}
        for call in delta.get("tool_calls") or ():
            self._calls.setdefault(choice.get("index", 0), ToolCalls()).read(call)

    def _on_body(self, body: bytes) -> list[Chunk]:
        completion = decode(_OBJECT, body)
        if error := _said(completion):
            self._fail(_status_inside(error), _problem(error))
            return []
        self._note(completion)
        if self._error is not None:
            return []
        if not completion["choices"]:
            raise ValueError("no choices")
        completion["model"] = self._target.model
        completion["object"] = "chat.completion.chunk"
        completion["choices"] = [_as_delta(choice) for choice in completion["choices"]]
        self._complete = True
        return [completion]

    def _on_end(self) -> list[Chunk]:
        # Some providers never send [DONE]: an answer whose every choice was finished is whole without it.
        self._complete = self._complete or len(self._finish_reasons) >= self._wanted
        return []

    def _note(self, chunk: Chunk) -> None:
        """Check the types of what we touch (raises msgspec.ValidationError), and remember how it went."""
        checked = msgspec.convert(chunk, _Chunk)
        if checked.usage:
            self._usage = from_openai(checked.usage)
        for choice in checked.choices:
            if choice.finish_reason == FAILED:
                self._fail(_status_inside(choice.error), _problem(choice.error))
            elif choice.finish_reason:
                self._finish_reasons[choice.index] = choice.finish_reason

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
        """What the client is told of an error status."""
        try:
            problem = _problem(_said(decode(_OBJECT, body)))
        except (msgspec.DecodeError, ValueError, RecursionError):
            problem = Problem()
        return classify(self._target.provider, status, problem, retry_after_s(headers, self._created))


def _changes(chat: ChatRequest, target: Target) -> dict[str, Any]:
    """Members of the client's body that the provider gets with another value, or not at all. Raises InvalidRequest."""
    body = chat.body
    fit = toolids.nine if TOOL_CALL_ID in target.unsupported else toolids.short
    wanted: dict[str, Any] = {"model": target.upstream_name, "messages": toolids.fitted(body["messages"], fit)}
    if "metadata" in body:
        metadata = client_metadata(chat)
        wanted["metadata"] = DROP if metadata is None else metadata
    if chat.max_tokens is not None:  # where the client wrote it, for the gateway may have lowered or set it
        named = [name for name in ("max_tokens", "max_completion_tokens") if body.get(name)]  # both: either may be read
        wanted |= dict.fromkeys(named or ("max_completion_tokens",), chat.max_tokens)
    if chat.stream:  # without it endpoints refuse stream_options
        wanted["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    if target.unsupported:
        _put_otherwise(wanted, body, target)
    return {name: value for name, value in wanted.items() if not _same(body.get(name), value)}


def _put_otherwise(wanted: dict[str, Any], body: Mapping[str, Any], target: Target) -> None:
    """Say what can be said without the parameters that the server refuses. Raises InvalidRequest for the others."""
    refused = {name: wanted.get(name, body.get(name)) for name in target.unsupported if name in wanted or name in body}
    for name, value in refused.items():
        if name in _OTHER_NAME:
            wanted |= {} if value is None else {_OTHER_NAME[name]: value}
        elif name == "stream_options":  # usage is told unasked, or estimated
            check_stream_options(body, target)
        elif value is not None and name not in HARMLESS and value not in _NEUTRAL.get(name, ()):
            raise refusal(name, target)
        if name in body:
            wanted[name] = DROP
        else:
            wanted.pop(name, None)
    if DEVELOPER in target.unsupported:
        wanted["messages"] = _as_system(wanted["messages"])
    if members := _MEMBERS & target.unsupported:
        wanted["messages"] = _without(wanted["messages"], members)
        if body.get("tools"):
            wanted["tools"] = _without(body["tools"], members)


def _as_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Developer messages under their older name; the very list, if there are none."""
    if not any(message.get("role") == DEVELOPER for message in messages):
        return messages
    return [{**message, "role": "system"} if message.get("role") == DEVELOPER else message for message in messages]


def _without(found: list[dict[str, Any]], members: frozenset[str]) -> list[dict[str, Any]]:
    """Messages, parts or tools without `members`; the very list, if there are none."""
    bare = [_bare(each, members) for each in found]
    return found if all(old is new for old, new in zip(found, bare, strict=True)) else bare


def _bare(found: dict[str, Any], members: frozenset[str]) -> dict[str, Any]:
    content = found.get("content")
    parts = _without(content, members) if isinstance(content, list) else content
    kept = {name: value for name, value in found.items() if name not in members and (value or name not in _EMPTY)}
    if parts is content and len(kept) == len(found):
        return found
    return kept if parts is content else {**kept, "content": parts}


def _same(old: object, new: object) -> bool:
    """Whether nothing is to be written. Messages are the very list when they stay: nothing long is compared."""
    return old is new or (not isinstance(new, list) and old == new)


def _as_delta(choice: dict[str, Any]) -> dict[str, Any]:
    """A whole choice as the one chunk of a stream; `fold` undoes it."""
    choice = {"index": 0, **choice}
    delta = dict(choice.pop("message", None) or {})
    if delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": index, **call} for index, call in enumerate(delta["tool_calls"])]
        for call in delta["tool_calls"]:
            textual(call)
    return {**choice, "delta": delta}


def _said(body: dict[str, Any]) -> object:
    """The error in a body that is one. It is the whole body at Mistral and older vLLM, and xAI's text stands beside its
    code (vercel/ai#15338); a text alone is not known to be meant for clients."""
    error = body.get("error")
    if body.get("object") == "error":
        return body
    return {"message": error, "code": body["code"]} if isinstance(error, str) and "code" in body else error


def _problem(error: object) -> Problem:
    """OpenAI's error object."""
    if not isinstance(error, dict):
        return Problem()
    code = error.get("code")
    return Problem(
        message=_text(error.get("message")),
        code=_text(code) or _text(error.get("type")),
        param=_text(error.get("param")),
    )


def _status_inside(error: object) -> int:
    """The status of an error that came after a 200."""
    if not isinstance(error, dict):
        return 500
    code = error.get("code")
    if isinstance(code, int) and 400 <= code < 600:  # OpenRouter, vLLM
        return code
    return _STATUS_OF.get(str(code)) or _STATUS_OF.get(str(error.get("type"))) or 500


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
