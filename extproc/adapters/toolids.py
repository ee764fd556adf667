"""Tool call ids: those of one provider go to another, and some carry an opaque signature through the client and back.

Gemini 3 refuses a conversation whose function calls come back without their `thoughtSignature`. Clients return a tool
call's id, name and arguments, and many (every one that joins streamed deltas by hand) return nothing else; so the
signature rides in the id. It is taken off again before any other provider sees the id: OpenAI allows 40 characters
(litellm#11392), Mistral just nine letters and digits (langchain#24668), Anthropic letters, digits, `_` and `-`. An id
that does not fit is made anew, the same of the same: calls and results keep together, and a prompt's cache is met.
Source: ai.google.dev/gemini-api/docs/thought-signatures.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Any

MOST_CHARS = 40

_MARK = "~sig~"
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_-]")
_NINE = re.compile(r"[A-Za-z0-9]{9}")


def sign(call_id: str, signature: str | None) -> str:
    """`call_id` with `signature` in it."""
    return f"{call_id}{_MARK}{signature}" if signature else call_id


def split(call_id: str) -> tuple[str, str | None]:
    """The id proper and the signature it carries, if any."""
    proper, _, signature = call_id.partition(_MARK)
    return proper, signature or None


def plain(call_id: str) -> str:
    """The id proper, in the characters that Anthropic accepts."""
    return _NOT_PLAIN.sub("_", split(call_id)[0])


def short(call_id: str) -> str:
    """The id proper, no longer than OpenAI takes."""
    proper = split(call_id)[0]
    return proper if len(proper) <= MOST_CHARS else f"call_{_digest(proper, 32)}"


def nine(call_id: str) -> str:
    """The id proper, as Mistral wants it."""
    proper = split(call_id)[0]
    return proper if _NINE.fullmatch(proper) else _digest(proper, 9)


def _digest(text: str, chars: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:chars]


def fitted(messages: list[dict[str, Any]], fit: Callable[[str], str]) -> list[dict[str, Any]]:
    """The conversation with every id as `fit` makes it: the same list when they all are."""
    if all(fit(call_id) == call_id for message in messages for call_id in _ids(message)):
        return messages
    return [_fitted(message, fit) for message in messages]


def _ids(message: dict[str, Any]) -> list[str]:
    ids = [message.get("tool_call_id"), *(call.get("id") for call in message.get("tool_calls") or ())]
    return [each for each in ids if isinstance(each, str)]


def _fitted(message: dict[str, Any], fit: Callable[[str], str]) -> dict[str, Any]:
    message = dict(message)
    if isinstance(message.get("tool_call_id"), str):
        message["tool_call_id"] = fit(message["tool_call_id"])
    if message.get("tool_calls"):
        message["tool_calls"] = [
            {**call, "id": fit(call["id"])} if isinstance(call.get("id"), str) else call
            for call in message["tool_calls"]
        ]
    return message
