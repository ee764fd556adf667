"""Anthropic's answer: a `message`, or its events, and the error event inside a stream.

In: the `Ask` and the `Answer`. Out: the frames to write and what each weighs.
"""

from typing import Any

import msgspec

from control.demo.ask import Answer, Ask, Call
from control.demo.base import Meta, Refused, disturbed, json_text
from control.demo.faults import Faults
from control.demo.text import byte_length, call_bytes, fragments

_STOP = {
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "refusal": "refusal",
    "blocked": "refusal",
}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
# The real stream pads its events with spaces before the last brace.
_PADDING = [b" " * (index * 7 % 16) + b"}\n\n" for index in range(16)]
_PING = b'event: ping\ndata: {"type": "ping"}\n\n'


def error_body(refused: Refused) -> dict[str, str]:
    """What stands under `error`."""
    usual = _TYPES.get(refused.status, "api_error" if refused.status >= 500 else "invalid_request_error")
    return {"type": refused.kind or usual, "message": refused.message}


class Writer:
    """Writes one answer. The API knows one choice only."""

    def __init__(self, ask: Ask, answer: Answer, meta: Meta, faults: Faults) -> None:
        self.ask, self.answer, self.meta, self.faults = ask, answer, meta, faults
        self.choice = answer.choices[0]
        self.model = ask.model.replace("-latest", "-20250101")
        self.frames: list[bytes] = []
        self.weights: list[int] = []

    def usage(self) -> dict[str, Any]:
        """Input tokens exclude what was read from the cache and written to it."""
        answer = self.answer
        fresh = answer.prompt_tokens - answer.cached_tokens - answer.cache_write_tokens
        return {
            "input_tokens": fresh,
            "cache_creation_input_tokens": answer.cache_write_tokens,
            "cache_read_input_tokens": answer.cached_tokens,
            "output_tokens": answer.output_tokens,
        } | ({"output_tokens_details": {"thinking_tokens": answer.reasoning_tokens}} if self.ask.thinking else {})

    def message(self, content: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
        detail = {"ephemeral_5m_input_tokens": self.answer.cache_write_tokens, "ephemeral_1h_input_tokens": 0}
        message: dict[str, Any] = {
            "model": self.model,
            "id": f"msg_01{self.meta.unique[:22]}",
            "type": "message",
            "role": "assistant",
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage | {"cache_creation": detail, "service_tier": "standard"},
        }
        if self.faults.no_usage:
            del message["usage"]
        return message

    def whole(self) -> tuple[list[bytes], list[int]]:
        """Frames and weights of an answer in one piece."""
        text = "".join(self.choice.pieces)
        content: list[dict[str, Any]] = [self._thinking()] if self.ask.thinking else []
        content += [{"type": "text", "text": text}] if text else []
        content += [
            {"type": "tool_use", "id": self._tool_id(at), "name": call.name, "input": call.arguments}
            for at, call in enumerate(self.choice.calls)
        ]
        message = self.message(content, self.usage())
        if not self.faults.no_done:
            message |= self._stopped()
        raw = msgspec.json.encode(message)
        if self.faults.malformed_sse:
            raw = raw[: len(raw) * 2 // 3]
        return [raw], [byte_length(text) + sum(map(call_bytes, self.choice.calls))]

    def _stopped(self) -> dict[str, Any]:
        return {"stop_reason": _STOP[self.choice.finish], "stop_sequence": self.choice.stop_sequence}

    def _thinking(self) -> dict[str, str]:
        return {"type": "thinking", "thinking": "Let me think about this.", "signature": f"EqQB{self.meta.unique}"}

    def _tool_id(self, at: int) -> str:
        return f"toolu_01{self.meta.unique[:20]}{at:02d}"

    def stream(self) -> tuple[list[bytes], list[int]]:
        """Frames and weights of a streamed answer."""
        started = self.message([], self.usage() | {"output_tokens": 1})
        self._add("message_start", b',"message":' + msgspec.json.encode(started))
        blocks = 0
        if self.ask.thinking:
            self._thinking_block()
            blocks += 1
        if self.choice.pieces:
            self._text_block(blocks)
            blocks += 1
        for at, call in enumerate(self.choice.calls):
            self._call_block(blocks + at, at, call)
        if len(self.frames) < 3:
            self._ping()
        end = b',"delta":' + msgspec.json.encode({} if self.faults.no_done else self._stopped())
        self._add("message_delta", end + (b"" if self.faults.no_usage else self._delta_usage()))
        if not self.faults.no_done:
            self._add("message_stop", b"")
        return disturbed(self.frames, self.weights, self.faults, _error_event(self.faults))

    def _delta_usage(self) -> bytes:
        return b',"usage":' + msgspec.json.encode(self.usage())

    def _add(self, event: str, rest: bytes, weight: int = 0) -> None:
        name = event.encode()
        padding = _PADDING[len(self.frames) & 15]
        self.frames.append(b'event: %b\ndata: {"type":"%b"%b%b' % (name, name, rest, padding))
        self.weights.append(weight)

    def _ping(self) -> None:
        self.frames.append(_PING)
        self.weights.append(0)

    def _open(self, index: int, block: dict[str, Any]) -> None:
        self._add("content_block_start", b',"index":%d,"content_block":%b' % (index, msgspec.json.encode(block)))

    def _delta(self, index: int, kind: str, key: str, text: str, weight: int) -> None:
        delta = (index, kind.encode(), key.encode(), json_text(text))
        self._add("content_block_delta", b',"index":%d,"delta":{"type":"%b","%b":"%b"}' % delta, weight)

    def _close(self, index: int) -> None:
        self._add("content_block_stop", b',"index":%d' % index)

    def _thinking_block(self) -> None:
        block = self._thinking()
        self._open(0, {"type": "thinking", "thinking": "", "signature": ""})
        for piece in fragments(block["thinking"], 12):
            self._delta(0, "thinking_delta", "thinking", piece, 0)
        self._delta(0, "signature_delta", "signature", block["signature"], 0)
        self._close(0)

    def _text_block(self, index: int) -> None:
        self._open(index, {"type": "text", "text": ""})
        self._ping()
        # The loop that a load test pays for: local names, no calls but the encoder's.
        start = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":' % index
        start += b'{"type":"text_delta","text":"'
        encode, at = msgspec.json.encode, len(self.frames)
        self.frames += [
            b'%b%b"}%b' % (start, encode(piece)[1:-1], _PADDING[(at + i) & 15])
            for i, piece in enumerate(self.choice.pieces)
        ]
        self.weights += map(byte_length, self.choice.pieces)
        self._close(index)

    def _call_block(self, index: int, at: int, call: Call) -> None:
        self._open(index, {"type": "tool_use", "id": self._tool_id(at), "name": call.name, "input": {}})
        self._delta(index, "input_json_delta", "partial_json", "", byte_length(call.name))
        for piece in fragments(call.json) if call.arguments else ():
            self._delta(index, "input_json_delta", "partial_json", piece, byte_length(piece))
        self._close(index)


def _error_event(faults: Faults) -> bytes:
    kind = "overloaded_error" if faults.error_in_stream == "true" else faults.error_in_stream
    error = {"type": "error", "error": {"type": kind, "message": faults.message or "Overloaded"}}
    return b"event: error\ndata: " + msgspec.json.encode(error) + b"\n\n"
