"""OpenAI's answer: a `chat.completion`, or its chunks, and the error event inside a stream.

In: the `Ask` and the `Answer`. Out: the frames to write and what each weighs.
"""

import re
from typing import Any

import msgspec

from control.demo.ask import Answer, Ask, Call, Choice
from control.demo.base import Meta, Refused, disturbed, json_text
from control.demo.faults import Faults
from control.demo.text import byte_length, call_bytes, fragments

_DATED = re.compile(r"\d{4}-\d{2}-\d{2}$|[/:]")
_FINISH = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "refusal": "stop",
    "blocked": "content_filter",
}
_TYPES = {401: "invalid_request_error", 403: "permission_error", 429: "rate_limit_exceeded"}
_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
# Real streams carry a field of random padding, on by default, in every event.
_PADDING = [b',"obfuscation":"%b"' % (b"aZ3kQ9xW7pLm2c"[: index * 5 % 15]) for index in range(16)]


def error_body(refused: Refused) -> dict[str, Any]:
    """What stands under `error`."""
    usual = _TYPES.get(refused.status, "server_error" if refused.status >= 500 else "invalid_request_error")
    code = refused.code or _CODES.get(refused.status)
    return {"message": refused.message, "type": refused.kind or usual, "param": refused.param, "code": code}


class Writer:
    """Writes one answer."""

    def __init__(self, ask: Ask, answer: Answer, meta: Meta, faults: Faults) -> None:
        self.ask, self.answer, self.meta, self.faults = ask, answer, meta, faults
        # The API answers with the dated name of the model that an alias stands for.
        self.model = ask.model if _DATED.search(ask.model) else f"{ask.model}-2025-08-07"

    def usage(self) -> dict[str, Any]:
        """The tokens, as this format counts them."""
        answer = self.answer
        return {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.output_tokens,
            "total_tokens": answer.prompt_tokens + answer.output_tokens,
            "prompt_tokens_details": {"cached_tokens": answer.cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": answer.reasoning_tokens,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def call_id(self, choice: int, index: int) -> str:
        return f"call_{self.meta.unique[:18]}{choice:03d}{index:03d}"

    def whole(self) -> tuple[list[bytes], list[int]]:
        """Frames and weights of an answer in one piece."""
        body: dict[str, Any] = {
            "id": f"chatcmpl-{self.meta.unique[:29]}",
            "object": "chat.completion",
            "created": self.meta.created,
            "model": self.model,
            "choices": [self._choice(index, choice) for index, choice in enumerate(self.answer.choices)],
            "usage": self.usage(),
            "service_tier": "default",
            "system_fingerprint": "fp_demo000000",
        }
        if self.faults.no_usage:
            del body["usage"]
        raw = msgspec.json.encode(body)
        if self.faults.malformed_sse:
            raw = raw[: len(raw) * 2 // 3]
        return [raw], [sum(map(_weight, self.answer.choices))]

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        text: str | None = "".join(choice.pieces)
        refusal = text if choice.finish == "refusal" else None
        if refusal is not None or (choice.calls and not text):
            text = None
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": refusal, "annotations": []}
        if choice.calls:
            message["tool_calls"] = [
                {"id": self.call_id(index, at), "type": "function", "function": _function(call)}
                for at, call in enumerate(choice.calls)
            ]
        finish = None if self.faults.no_done else _FINISH[choice.finish]
        return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}

    def stream(self) -> tuple[list[bytes], list[int]]:
        """Frames and weights of a streamed answer."""
        frames: list[bytes] = []
        weights: list[int] = []
        for index, choice in enumerate(self.answer.choices):
            self._choice_frames(index, choice, frames, weights)
        if self.ask.include_usage and not self.faults.no_usage:
            usage = b',"choices":[],"usage":' + msgspec.json.encode(self.usage())
            frames.append(self._opening() + usage + _PADDING[1] + b"}\n\n")
            weights.append(0)
        if not self.faults.no_done:
            frames.append(b"data: [DONE]\n\n")
            weights.append(0)
        return disturbed(frames, weights, self.faults, _error_event(self.faults))

    def _opening(self) -> bytes:
        model = json_text(self.model)
        named = b'data: {"id":"chatcmpl-%b","object":"chat.completion.chunk","created":%d,"model":"%b"'
        values = (self.meta.unique[:29].encode(), self.meta.created, model)
        return named % values + b',"service_tier":"default","system_fingerprint":"fp_demo000000"'

    def _choice_frames(self, index: int, choice: Choice, frames: list[bytes], weights: list[int]) -> None:
        before = self._opening() + b',"choices":[{"index":%d,"delta":' % index
        usage = b',"usage":null' if self.ask.include_usage else b""
        after = [b',"logprobs":null,"finish_reason":null}]' + usage + padding + b"}\n\n" for padding in _PADDING]

        def add(delta: bytes, weight: int) -> None:
            frames.append(before + delta + after[len(frames) & 15])
            weights.append(weight)

        if choice.pieces or not choice.calls:
            add(b'{"role":"assistant","content":"","refusal":null}', 0)
        key = b'{"refusal":"' if choice.finish == "refusal" else b'{"content":"'
        # The loop that a load test pays for: local names, no calls but the encoder's.
        encode, start, at = msgspec.json.encode, before + key, len(frames)
        frames += [
            b'%b%b"}%b' % (start, encode(piece)[1:-1], after[(at + i) & 15]) for i, piece in enumerate(choice.pieces)
        ]
        weights += map(byte_length, choice.pieces)
        for at, call in enumerate(choice.calls):
            role = b'"role":"assistant","content":null,"refusal":null,' if at == 0 and not choice.pieces else b""
            head = (at, self.call_id(index, at).encode(), call.name.encode())
            named = b'"tool_calls":[{"index":%d,"id":"%b","type":"function","function":{"name":"%b","arguments":""}}]}'
            add(b"{" + role + named % head, byte_length(call.name))
            for piece in fragments(call.json):
                argument = b'{"tool_calls":[{"index":%d,"function":{"arguments":"%b"}}]}' % (at, json_text(piece))
                add(argument, byte_length(piece))
        if not self.faults.no_done:
            finish = b'{},"logprobs":null,"finish_reason":"%b"}]' % _FINISH[choice.finish].encode()
            frames.append(before + finish + usage + _PADDING[3] + b"}\n\n")
            weights.append(0)


def _function(call: Call) -> dict[str, str]:
    return {"name": call.name, "arguments": call.json}


def _weight(choice: Choice) -> int:
    return sum(map(byte_length, choice.pieces)) + sum(map(call_bytes, choice.calls))


def _error_event(faults: Faults) -> bytes:
    kind = "server_error" if faults.error_in_stream == "true" else faults.error_in_stream
    text = faults.message or "The server had an error while processing your request. Sorry about that!"
    error = {"error": {"message": text, "type": kind, "param": None, "code": None}}
    return b"data: " + msgspec.json.encode(error) + b"\n\n"
