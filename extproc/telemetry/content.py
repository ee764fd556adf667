"""What was said, for a trace: `gen_ai.input.messages` and `gen_ai.output.messages`, bounded, without secrets. Pure.

In: a chat request's messages (in the worker, which only cuts them down), and what went to the client (in the settler,
behind the answer). Out: the two attributes as JSON. Only where `telemetry.content` is on; nothing here is called else.
Every text goes through `redacted` before it is written anywhere.
Source: opentelemetry.io/docs/specs/semconv/gen-ai, gen-ai-input-messages.json and gen-ai-output-messages.json.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from extproc.adapters.fold import fold
from extproc.adapters.openai import OpenAIAdapter
from extproc.records import Target

MOST: Final = 32 * 1024  # characters of text, of the input and of the output each
MOST_ANSWER_BYTES: Final = 256 * 1024  # a larger answer is not told
CUT: Final = " [cut]"
REDACTED: Final = "[redacted]"

# What looks like a credential, also one that was cut short. Rather too much than too little.
_NAMED: Final = r"""(?:api[_-]?key|secret|passw(?:or)?d|token|authorization|credential)[\w-]*[\\"']*\s*[:=]"""
_SECRETS: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\beyJ[\w-]{6,}(?:\.[\w-]*){0,2}"  # JSON web tokens
    r"|\b(?:AKIA|ASIA|AIza)[\w-]{6,}"  # AWS, Google
    r"|\b(?:gh[pousr]_|github_pat_|glpat-|hf_|xox[abeprs]-|npm_|pypi-)[\w-]{6,}"
    r"|\b(?:sk|pk|rk|gw|key)[-_][\w-]{6,}"  # OpenAI, Anthropic, Stripe, our own
    rf"""|(?i:\b{_NAMED}[\s\\"']*(?!{_NAMED})(?:(?:bearer|basic)\s+)?[^\s"',;]{{6,}})"""
    r"|(?i:\b(?:bearer|basic)\s+)[\w.~+/=-]{6,}",
    re.DOTALL,
)


class Content(msgspec.Struct, frozen=True):
    """Of one request, as its trace will have it: JSON, or "" for what is not known."""

    request_id: str
    input_messages: str
    output_messages: str


class Said:
    """What a client got, piece by piece; more than a bound is forgotten."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._left = MOST_ANSWER_BYTES

    def piece(self, data: bytes) -> None:
        """The next piece."""
        self._left -= len(data)
        if self._left < 0:
            self._pieces.clear()
        else:
            self._pieces.append(data)

    def text(self, last: bytes) -> str | None:
        """All of it; None: it was too much."""
        self.piece(last)
        return None if self._left < 0 else b"".join(self._pieces).decode("utf-8", "replace")


def redacted(text: str) -> str:
    """`text` without what looks like a credential."""
    return _SECRETS.sub(REDACTED, text)


def asked(body: Mapping[str, Any]) -> str:
    """The messages of a request as JSON, the last ones if all are too long; secrets still in it. Never raises."""
    given = body.get("messages")
    left, found = MOST, []
    for message in reversed(given if isinstance(given, list) else []):
        if left <= 0:
            found.append({"role": "system", "parts": [_text(CUT.strip())]})
            break
        cut = _Cut(left)
        found.append(_message(message, cut))
        left = cut.left
    return msgspec.json.encode(found[::-1]).decode("utf-8", "replace")


def content_of(request_id: str, messages: str, answer: bytes, *, stream: bool) -> Content:
    """Both sides of a request, cut down and without secrets. `messages`: what `asked` made; `answer`: the client's."""
    return Content(request_id, _clean(messages), _answered(answer, stream=stream))


def _clean(messages: str) -> str:
    try:
        return msgspec.json.encode(_redacted(msgspec.json.decode(messages))).decode() if messages else ""
    except (msgspec.DecodeError, RecursionError):
        return ""


def _answered(answer: bytes, *, stream: bool) -> str:
    """The choices of an answer as JSON; "" if it cannot be read."""
    if not answer:
        return ""
    try:
        completion = _unfolded(answer) if stream else msgspec.json.decode(answer)
        choices = [_choice(each) for each in completion["choices"]]
        return msgspec.json.encode(_redacted(choices)).decode("utf-8", "replace")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError):
        return ""


def _unfolded(stream: bytes) -> dict[str, Any]:
    target = Target(model="", upstream_name="", provider="", format="openai")
    adapter = OpenAIAdapter(target, "", 0, stream=True)
    chunks = adapter.feed(stream)
    return fold(chunks, adapter.finish())


def _choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    found = _message(choice["message"], _Cut(MOST))
    return found | {"finish_reason": choice.get("finish_reason") or "error"}


class _Cut:
    """Takes texts until there is no more room."""

    def __init__(self, left: int) -> None:
        self.left = left

    def text(self, text: object) -> str:
        plain = text if isinstance(text, str) else msgspec.json.encode(text, enc_hook=repr).decode("utf-8", "replace")
        room, self.left = max(0, self.left), self.left - len(plain)
        return plain if len(plain) <= room else plain[:room] + CUT


def _message(message: object, cut: _Cut) -> dict[str, Any]:
    """One message of OpenAI's, in parts."""
    if not isinstance(message, Mapping):
        return {"role": "user", "parts": []}
    role, content = str(message.get("role", "")), message.get("content")
    if role == "tool":
        part = {"type": "tool_call_response", "id": message.get("tool_call_id"), "response": cut.text(content)}
        return {"role": role, "parts": [part]}
    parts = [_text(cut.text(content))] if isinstance(content, str) else _parts(content, cut)
    if isinstance(refusal := message.get("refusal"), str):
        parts.append(_text(cut.text(refusal)))
    calls = message.get("tool_calls")
    parts += [_call(call, cut) for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []
    return {"role": role, "parts": parts}


def _parts(content: object, cut: _Cut) -> list[dict[str, Any]]:
    """What is no text is named, not told: an image may be megabytes."""
    if not isinstance(content, Sequence):
        return []
    return [
        _text(cut.text(part["text"])) if isinstance(part.get("text"), str) else {"type": str(part.get("type", ""))}
        for part in content
        if isinstance(part, Mapping)
    ]


def _call(call: Mapping[str, Any], cut: _Cut) -> dict[str, Any]:
    function = call.get("function")
    named = function if isinstance(function, Mapping) else {}
    arguments = cut.text(named.get("arguments", ""))
    return {"type": "tool_call", "id": call.get("id"), "name": named.get("name"), "arguments": arguments}


def _text(content: str) -> dict[str, Any]:
    return {"type": "text", "content": content}


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, list):
        return [_redacted(each) for each in value]
    return {name: _redacted(each) for name, each in value.items()} if isinstance(value, dict) else value
