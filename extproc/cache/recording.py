"""What passed to a client -> an entry, or the reason why it is not kept. Pure.

In: a `Recording`. Out: an `Entry`. Kept is what is complete, successful and reads back: everything here is checked on
what the client was given, not on what we believe we sent. Called by the recorder, behind the reply.
"""

from typing import Any, Final, Literal

import msgspec

from extproc.adapters.fold import fold
from extproc.adapters.openai import OpenAIAdapter
from extproc.cache.entry import Entry
from extproc.cache.tape import Recording
from extproc.pricing import cost_nano_usd
from extproc.settings import Cache

Refusal = Literal["incomplete", "filtered", "truncated", "tool_calls", "unreadable", "oversized", "no_usage", "other"]

_REASONS: Final[dict[object, Refusal]] = {
    "length": "truncated",
    "content_filter": "filtered",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
_OWN_FIELDS: Final = ("routed_from", "provider", "gateway_metadata")
_OWN_USAGE: Final = ("input_tokens", "output_tokens", "cost_usd")


class NotKept(Exception):
    """An answer that is not kept."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason)
        self.reason: Refusal = reason


def entry_of(recording: Recording, settings: Cache, now_ms: int) -> Entry:
    """The entry of a good answer. Raises NotKept."""
    outcome, target = recording.outcome, recording.target
    if not outcome.complete or outcome.error_code is not None:
        raise NotKept("incomplete")
    if outcome.usage is None:
        raise NotKept("no_usage")  # what a hit saves would not be known
    completion = _unfolded(recording) if recording.kind == "stream" else _plain(recording)
    _check(completion, settings)
    completion["model"] = target.model
    answer = msgspec.json.encode(completion)
    if len(answer) > settings.max_entry_bytes:
        raise NotKept("oversized")
    return Entry(
        key=recording.ticket.key,
        team_id=recording.ticket.team_id,
        model=target.model,
        provider=target.provider,
        answer=answer,
        usage=outcome.usage,
        cost_nano_usd=cost_nano_usd(outcome.usage, target.price),
        stored_ms=now_ms,
    )


def _plain(recording: Recording) -> dict[str, Any]:
    """The completion of a whole answer, without what the gateway wrote into it."""
    try:
        completion = msgspec.json.decode(recording.body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotKept("unreadable") from None
    if recording.gateway_fields:
        for name in _OWN_FIELDS:
            completion.pop(name, None)
        usage = completion.get("usage")
        if isinstance(usage, dict):
            completion["usage"] = {name: value for name, value in usage.items() if name not in _OWN_USAGE}
    return completion


def _unfolded(recording: Recording) -> dict[str, Any]:
    """The completion of a stream: read like any provider's, to its `[DONE]`."""
    adapter = OpenAIAdapter(recording.target, "", 0, stream=True)
    chunks = adapter.feed(recording.body)
    final = adapter.finish()
    if final.error is not None:
        raise NotKept("unreadable")
    completion = fold(chunks, msgspec.structs.replace(final, usage=recording.outcome.usage))
    if not completion.get("id") or "created" not in completion:
        raise NotKept("unreadable")
    return completion


def _check(completion: dict[str, Any], settings: Cache) -> None:
    try:
        choices = completion["choices"]
        if not choices or [choice["index"] for choice in choices] != list(range(len(choices))):
            raise NotKept("unreadable")
        for choice in choices:
            _check_choice(choice, settings)
    except (KeyError, TypeError, AttributeError):
        raise NotKept("unreadable") from None


def _check_choice(choice: dict[str, Any], settings: Cache) -> None:
    message, finish = choice["message"], choice["finish_reason"]
    calls = message.get("tool_calls") or message.get("function_call")
    reason = "stop" if finish in ("tool_calls", "function_call") and settings.tool_calls else finish
    if reason != "stop":
        raise NotKept(_REASONS.get(reason, "other"))
    if calls and not settings.tool_calls:
        raise NotKept("tool_calls")
    if message.get("refusal"):
        raise NotKept("filtered")
    content = message.get("content")
    if not calls and not (isinstance(content, str) and content):
        raise NotKept("unreadable")  # an answer of nothing, or of something that cannot be replayed as text
