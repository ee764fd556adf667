"""Google's answer: a `GenerateContentResponse`, or several, and the error inside a stream.

In: the `Ask` and the `Answer`. Out: the frames to write and what each weighs.
"""

import base64
import re
from typing import Any

import msgspec

from control.demo.ask import Answer, Ask, Call, Choice, Finish
from control.demo.base import Meta, Refused, disturbed
from control.demo.faults import Faults
from control.demo.google_read import SIGNATURE
from control.demo.text import byte_length, call_bytes, tokens

_FINISH: dict[Finish, str] = {
    "stop": "STOP",
    "stop_sequence": "STOP",
    "length": "MAX_TOKENS",
    "tool_calls": "STOP",
    "refusal": "SAFETY",
    "blocked": "PROHIBITED_CONTENT",
}
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def status(refused: Refused) -> str:
    """The canonical status, such as INVALID_ARGUMENT."""
    return refused.kind or _STATUSES.get(refused.status, "INTERNAL" if refused.status >= 500 else "INVALID_ARGUMENT")


class Writer:
    """Writes one answer."""

    def __init__(self, ask: Ask, answer: Answer, meta: Meta, faults: Faults) -> None:
        self.ask, self.answer, self.meta, self.faults = ask, answer, meta, faults
        self.signs = ask.model.startswith("gemini-3")
        self.ids = bool(re.match(r"gemini-3\.[5-9]|gemini-[4-9]", ask.model))
        raw = SIGNATURE + bytes.fromhex(meta.unique) * 8
        self.signature = base64.b64encode(raw).decode()

    def usage(self, candidates: int) -> dict[str, Any]:
        """`candidates`: output tokens so far, without thoughts, which are counted apart and into the total."""
        answer = self.answer
        text = answer.prompt_tokens
        usage: dict[str, Any] = {"promptTokenCount": text}
        if candidates:
            usage["candidatesTokenCount"] = candidates
        usage["totalTokenCount"] = text + candidates + answer.reasoning_tokens
        if answer.cached_tokens:
            usage["cachedContentTokenCount"] = answer.cached_tokens
        usage["promptTokensDetails"] = [{"modality": "TEXT", "tokenCount": text}]
        if answer.reasoning_tokens:
            usage["thoughtsTokenCount"] = answer.reasoning_tokens
        return usage

    def response(self, candidates: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, Any] = {"candidates": candidates}
        if self.answer.choices[0].finish == "blocked":
            out = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
        if not self.faults.no_usage:
            out["usageMetadata"] = usage
        return out | {"modelVersion": self.ask.model, "responseId": self.meta.unique[:23]}

    def whole(self) -> tuple[list[bytes], list[int]]:
        """Frames and weights of an answer in one piece."""
        candidates = [self._candidate(at, choice) for at, choice in enumerate(self.answer.choices)]
        output = self.answer.output_tokens - self.answer.reasoning_tokens
        raw = msgspec.json.format(msgspec.json.encode(self.response(candidates, self.usage(output))), indent=2) + b"\n"
        if self.faults.malformed_sse:
            raw = raw[: len(raw) * 2 // 3]
        weight = sum(sum(map(byte_length, item.pieces)) + sum(map(call_bytes, item.calls)) for item in self._choices())
        return [raw], [weight]

    def _choices(self) -> list[Choice]:
        return self.answer.choices

    def _candidate(self, index: int, choice: Choice) -> dict[str, Any]:
        text = "".join(choice.pieces)
        parts: list[dict[str, Any]] = [{"text": text}] if text else []
        if text and self.signs and not choice.calls:
            parts[0]["thoughtSignature"] = self.signature
        parts += [self._call(at, call) for at, call in enumerate(choice.calls)]
        out: dict[str, Any] = (
            {"content": {"parts": parts, "role": "model"}} if parts else {"content": {"role": "model"}}
        )
        if not self.faults.no_done:
            out["finishReason"] = _FINISH[choice.finish]
        return out | {"index": index}

    def _call(self, at: int, call: Call) -> dict[str, Any]:
        inner: dict[str, Any] = {"name": call.name, "args": call.arguments}
        if self.ids:
            inner["id"] = f"{self.meta.unique[:6]}{at:02d}"
        return {"functionCall": inner} | ({"thoughtSignature": self.signature} if self.signs and at == 0 else {})

    def stream(self) -> tuple[list[bytes], list[int]]:
        """Frames and weights of a streamed answer."""
        frames: list[bytes] = []
        weights: list[int] = []
        done = 0
        for index, choice in enumerate(self.answer.choices):
            self._choice_frames(index, choice, done, frames, weights)
            done += tokens(sum(map(byte_length, choice.pieces)) + sum(map(call_bytes, choice.calls)))
        return disturbed(frames, weights, self.faults, _error_event(self.faults))

    def _choice_frames(self, index: int, choice: Choice, done: int, frames: list[bytes], weights: list[int]) -> None:
        """One response per piece, with the usage so far; the last one ends the candidate."""
        last: list[dict[str, Any]] = []
        size = 0
        pieces = choice.pieces
        if not self.signs and not choice.calls and pieces:
            pieces, final = pieces[:-1], pieces[-1]
            last = [{"text": final}]
        elif self.signs and not choice.calls and pieces:
            last = [{"text": "", "thoughtSignature": self.signature}]
        elif choice.calls:
            last = [{"text": ""}]
        sizes = [byte_length(piece) for piece in pieces]
        self._text_frames(index, pieces, sizes, done, frames)
        weights += sizes
        size += sum(sizes)
        for at, call in enumerate(choice.calls):
            size += call_bytes(call)
            self._add(frames, index, [self._call(at, call)], None, done + tokens(size))
            weights.append(call_bytes(call))
        carried = byte_length(last[0]["text"]) if last else 0
        self._add(frames, index, last, choice.finish, done + tokens(size + carried))
        weights.append(carried)

    def _text_frames(self, index: int, pieces: list[str], sizes: list[int], done: int, frames: list[bytes]) -> None:
        # The loop that a load test pays for: the tail is written once, with holes for the two counts that move.
        counted, encode = self.usage(1), msgspec.json.encode
        base = counted["totalTokenCount"] - 1
        counted["candidatesTokenCount"], counted["totalTokenCount"] = 111111111, 222222222
        tail = encode(self.response([], counted)).removeprefix(b'{"candidates":[]').replace(b"%", b"%%")
        tail = tail.replace(b"111111111", b"%d").replace(b"222222222", b"%d") + b"\r\n\r\n"
        head = b'data: {"candidates": [{"content": {"parts": [{"text": %%b}],"role": "model"},"index": %d}]' % index
        shape, size, bare = head + tail, 0, self.faults.no_usage
        for piece, length in zip(pieces, sizes, strict=True):
            size += length
            count = done + tokens(size)
            frames.append(shape % (encode(piece) if bare else (encode(piece), count, base + count)))

    def _add(
        self, frames: list[bytes], index: int, parts: list[dict[str, Any]], finish: Finish | None, count: int
    ) -> None:
        content = {"parts": parts, "role": "model"} if parts else {"role": "model"}
        candidate: dict[str, Any] = {"content": content}
        if finish is not None and not self.faults.no_done:
            candidate["finishReason"] = _FINISH[finish]
        response = self.response([candidate | {"index": index}], self.usage(count))
        frames.append(b"data: " + msgspec.json.encode(response) + b"\r\n\r\n")


def _error_event(faults: Faults) -> bytes:
    kind = "UNAVAILABLE" if faults.error_in_stream in ("true", None) else faults.error_in_stream
    text = faults.message or "The model is overloaded. Please try again later."
    code = next((status for status, name in _STATUSES.items() if name == kind), 503)
    return b"data: " + msgspec.json.encode({"error": {"code": code, "message": text, "status": kind}}) + b"\r\n\r\n"
