"""Chunks -> one `chat.completion` object, for answers that were not streamed.

In: all chunks of an answer, in order, and its Final. Out: OpenAI's completion object. What a provider sent whole and
was unfolded into one chunk comes back as it was, unknown fields included. Called by `extproc.answer`.
"""

from collections.abc import Iterable
from typing import Any

from extproc.adapters.base import Chunk, Final
from extproc.adapters.usage import to_openai

# Strings that name something; every other string in a delta is a piece of a longer one.
_NAMES = frozenset({"role", "id", "type", "name"})


def fold(chunks: Iterable[Chunk], final: Final) -> dict[str, Any]:
    """The completion. `final.error` is for the caller to look at first."""
    completion: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in (*chunks, *final.chunks):
        for key, value in chunk.items():
            if key != "choices" and (value is not None or key not in completion):
                completion[key] = value
        for choice in chunk["choices"]:
            _fold_choice(choices.setdefault(choice["index"], {}), choice)
    completion["object"] = "chat.completion"
    completion["choices"] = [_finished(choices[index]) for index in sorted(choices)]
    if final.usage is not None and not completion.get("usage"):
        completion["usage"] = to_openai(final.usage)
    return completion


def _fold_choice(into: dict[str, Any], choice: dict[str, Any]) -> None:
    message = into.setdefault("message", {"role": "assistant", "content": None})
    for key, value in choice.items():
        if key == "delta":
            _fold_delta(message, value)
        elif key == "logprobs" and into.get(key) and value:
            _merge(into[key], value)
        elif value is not None or key not in into:
            into[key] = value


def _fold_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for call in delta.get("tool_calls") or ():
        calls = message.setdefault("tool_calls", {})
        _merge(calls.setdefault(call.get("index", len(calls)), {}), {k: v for k, v in call.items() if k != "index"})
    _merge(message, {key: value for key, value in delta.items() if key != "tool_calls" or not value})


def _merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    """Join pieces: strings and lists grow, objects merge, all else is the latest value."""
    for key, value in more.items():
        old = into.get(key)
        if value is None and key in into:
            continue
        if _grows(key, old, value):
            into[key] = old + value
        elif isinstance(old, dict) and isinstance(value, dict):
            into[key] = dict(old)
            _merge(into[key], value)
        else:
            into[key] = value


def _grows(key: str, old: object, value: object) -> bool:
    if isinstance(old, str):
        return isinstance(value, str) and key not in _NAMES
    return isinstance(old, list) and isinstance(value, list)


def _finished(choice: dict[str, Any]) -> dict[str, Any]:
    calls = choice["message"].get("tool_calls")
    if isinstance(calls, dict):
        choice["message"]["tool_calls"] = [calls[index] for index in sorted(calls)]
    return choice
