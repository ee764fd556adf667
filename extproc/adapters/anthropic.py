"""Anthropic's Messages API.

In: a client's request; Anthropic's events or message. Out: a Messages request; chunks. Made by `adapters.registry`.
Source: platform.claude.com/docs/en/api/messages, /build-with-claude/streaming, /api/errors.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from extproc.adapters.anthropic_request import request_body
from extproc.adapters.base import Chunk
from extproc.adapters.failures import Problem, classify, retry_after_s
from extproc.adapters.reader import AnswerReader, decode
from extproc.body.sse import Event
from extproc.chat import encoded
from extproc.errors import GatewayError
from extproc.records import ChatRequest, ProviderRequest, Usage

API_VERSION = "2023-06-01"

# What is not here, pause_turn and all to come included, is an ordinary end to a client of OpenAI's API.
_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}

# The status of an error that came inside a 200 stream.
_STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class _CacheCreation(msgspec.Struct):
    ephemeral_1h_input_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _OutputDetails | None = None


class _Block(msgspec.Struct):
    type: str = ""
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None


class _Delta(msgspec.Struct):
    """Of a content block, or (without a type) of the message."""

    type: str | None = None
    text: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Message(msgspec.Struct):
    usage: _Usage | None = None


class _Error(msgspec.Struct):
    type: str | None = None
    message: str | None = None


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: _Error | None = None


class _Whole(msgspec.Struct):
    content: list[_Block] = []
    stop_reason: str | None = None
    usage: _Usage | None = None
    error: _Error | None = None


class _Tool(msgspec.Struct):
    """A tool call that is still open."""

    index: int  # among this answer's tool calls
    input: Any  # what the block began with: all of it, where nothing is streamed
    began: bool = False  # a piece of its arguments was passed on


_EVENT = msgspec.json.Decoder(_Event)
_WHOLE = msgspec.json.Decoder(_Whole)


class AnthropicAdapter(AnswerReader):
    """One attempt at a provider that speaks Anthropic's format."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._counts: dict[str, int] = {}  # the usage so far, by Anthropic's names
        self._open: dict[int, _Tool] = {}  # by content block
        self._stop_reason: str | None = None

    def request(self, chat: ChatRequest) -> ProviderRequest:
        """The Messages request for `chat`. Raises InvalidRequest."""
        headers = (("content-type", "application/json"), ("anthropic-version", API_VERSION))
        return ProviderRequest("/messages", headers, encoded(request_body(chat, self._target)))

    def _on_event(self, event: Event) -> list[Chunk]:
        read = decode(_EVENT, event.data)
        kind = read.type or event.name.decode("latin-1")
        if self._complete:
            return []
        if kind == "content_block_delta":
            return self._on_delta(read.index, read.delta)
        if kind == "content_block_start":
            return self._on_block(read.index, read.content_block)
        if kind == "content_block_stop":
            return self._close(read.index)
        if kind == "message_start" and read.message is not None:
            self._count(read.message.usage)
        elif kind == "message_delta":
            self._stop_reason = (read.delta.stop_reason if read.delta else None) or self._stop_reason
            self._count(read.usage)
            self._usage = self._total()  # final, even if message_stop never comes
        elif kind == "message_stop":
            return self._stop()
        elif kind == "error":
            self._fail_inside(read.error)
        return []

    def _on_delta(self, block: int, delta: _Delta | None) -> list[Chunk]:
        if delta is None:
            return []
        if delta.text and delta.type in (None, "text_delta"):
            return [self._chunk(0, {"content": delta.text})]
        tool = self._open.get(block)
        if tool is not None and delta.partial_json:
            tool.began = True
            return [self._tool_arguments(0, tool.index, delta.partial_json)]
        return []

    def _on_block(self, block: int, content: _Block | None) -> list[Chunk]:
        if content is None:
            return []
        if content.type == "tool_use":
            self._open[block] = _Tool(self._tools.get(0, 0), content.input)
            return [self._tool_start(0, content.id or "", content.name or "")]
        if content.type == "text" and content.text:
            return [self._chunk(0, {"content": content.text})]
        return []

    def _close(self, block: int) -> list[Chunk]:
        """A tool called without arguments streams none: clients need the text of an object all the same."""
        tool = self._open.pop(block, None)
        if tool is None or tool.began:
            return []
        return [self._tool_arguments(0, tool.index, msgspec.json.encode(tool.input or {}).decode())]

    def _stop(self) -> list[Chunk]:
        chunks = [chunk for block in sorted(self._open) for chunk in self._close(block)]
        self._complete = True
        default = "tool_calls" if self._tools else "stop"
        reason = _FINISH_REASONS.get(self._stop_reason, "stop") if self._stop_reason else default
        self._finish_reasons[0] = reason
        return [*chunks, self._chunk(0, {}, reason), *self._count_at_last(self._total())]

    def _on_body(self, body: bytes) -> list[Chunk]:
        whole = decode(_WHOLE, body)
        if whole.error is not None:
            self._fail_inside(whole.error)
            return []
        chunks: list[Chunk] = []
        for index, block in enumerate(whole.content):
            chunks += self._on_block(index, block)
        self._stop_reason = whole.stop_reason
        self._count(whole.usage)
        return chunks + self._stop()

    def _count(self, usage: _Usage | None) -> None:
        """Counts of message_delta are totals: they replace those of message_start; what did not change is left out."""
        if usage is None:
            return
        found = {
            "fresh": usage.input_tokens,
            "read": usage.cache_read_input_tokens,
            "written": usage.cache_creation_input_tokens,
            "written_long": usage.cache_creation.ephemeral_1h_input_tokens if usage.cache_creation else None,
            "output": usage.output_tokens,
            "thinking": usage.output_tokens_details.thinking_tokens if usage.output_tokens_details else None,
        }
        self._counts.update({name: tokens for name, tokens in found.items() if tokens is not None})

    def _total(self) -> Usage | None:
        """Anthropic's input_tokens leaves out what its cache read and wrote; ours counts all input. None: not told."""
        counts = self._counts
        if not counts:
            return None
        read, written = counts.get("read", 0), counts.get("written", 0)
        return Usage(
            input_tokens=counts.get("fresh", 0) + read + written,
            output_tokens=counts.get("output", 0),
            cached_tokens=read,
            cache_write_tokens=written,
            cache_write_long_tokens=counts.get("written_long", 0),
            reasoning_tokens=counts.get("thinking", 0),
        )

    def _fail_inside(self, error: _Error | None) -> None:
        self._fail(_STATUS_OF.get((error.type if error else None) or "", 500), _problem(error))

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
        """What the client is told of an error status."""
        try:
            problem = _problem(decode(_EVENT, body).error)
        except (msgspec.DecodeError, ValueError, RecursionError):
            problem = Problem()
        return classify(self._target.provider, status, problem, retry_after_s(headers, self._created))


def _problem(error: _Error | None) -> Problem:
    return Problem(message=error.message, code=error.type) if error else Problem()
