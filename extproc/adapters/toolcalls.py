"""Streamed tool calls, told apart and numbered from 0: so that OpenAI's clients can join their pieces.

Some servers leave the index out (Gemini's OpenAI surface: openai-python#2806; SGLang: vercel/ai#5885), give all calls
the same one (Ollama: ollama#15457), begin at 1 (AstrBot#9593), or write arguments as an object (llama.cpp#20198). In:
the pieces of calls of one choice, in order, changed in place. Used by the openai adapter; the others count themselves.
"""

from typing import Any

import msgspec


class ToolCalls:
    """Of one choice of one answer."""

    def __init__(self) -> None:
        self._known: list[tuple[object, object]] = []  # the index and the id that each was given

    def read(self, call: dict[str, Any]) -> None:
        """A piece of a call: its index is the call's afterwards, its arguments are text."""
        call["index"] = self._place(call.get("index"), call.get("id"), named=bool(_function(call).get("name")))
        textual(call)

    def _place(self, index: object, call_id: object, *, named: bool) -> int:
        for place, (given, known) in enumerate(self._known):
            if call_id and known == call_id and index in (None, given):
                return place
        if not call_id or not (named or index is None):
            # The rest of one that has begun. An id alone is no beginning: some servers make one for each piece.
            for place in reversed(range(len(self._known))):
                if index is None or self._known[place][0] == index:
                    return place
        self._known.append((index, call_id))
        return len(self._known) - 1


def textual(call: dict[str, Any]) -> None:
    """A call's arguments, as text."""
    function = _function(call)
    if isinstance(function.get("arguments"), dict):
        function["arguments"] = msgspec.json.encode(function["arguments"]).decode()


def _function(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    return function if isinstance(function, dict) else {}
