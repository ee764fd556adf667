"""Tool call ids that carry a provider's opaque signature through the client and back.

Gemini 3 refuses a conversation whose function calls come back without their `thoughtSignature`. Clients return a tool
call's id, name and arguments, and many (every one that joins streamed deltas by hand) return nothing else; so the
signature rides in the id. It is taken off again before any other provider sees the id: OpenAI allows 40 characters,
Anthropic letters, digits, `_` and `-`. Source: ai.google.dev/gemini-api/docs/thought-signatures.
"""

import re
from typing import Any

_MARK = "~sig~"
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_-]")


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


def unsigned(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conversation with no signatures in its ids: the same list when it has none."""
    return [_unsigned(message) for message in messages] if _signed(messages) else messages


def _signed(messages: list[dict[str, Any]]) -> bool:
    for message in messages:
        if _MARK in str(message.get("tool_call_id")):
            return True
        calls = message.get("tool_calls")
        if calls and any(_MARK in str(call.get("id")) for call in calls):
            return True
    return False


def _unsigned(message: dict[str, Any]) -> dict[str, Any]:
    message = dict(message)
    if isinstance(message.get("tool_call_id"), str):
        message["tool_call_id"] = split(message["tool_call_id"])[0]
    if message.get("tool_calls"):
        message["tool_calls"] = [
            {**call, "id": split(call["id"])[0]} if isinstance(call.get("id"), str) else call
            for call in message["tool_calls"]
        ]
    return message
