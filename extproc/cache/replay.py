"""An entry -> what a client gets of it: a whole answer, or an event stream. Pure.

In: a `Hit`. Out: bytes. `id` and `created` are those of the answer when it was first given: it is that answer, as the
`age` header says; what tells two requests apart is `x-gateway-request-id`. A stream is made of events of a size that
clients are used to; put together they are the whole answer again.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from extproc.cache.hit import Hit

PIECE_CHARS: Final = 256  # of a text in one event: small enough for a reader's progress, few enough to write and parse

_ENCODER = msgspec.json.Encoder()
_DONE: Final = b"data: [DONE]\n\n"
_OBJECT = msgspec.json.Decoder(dict[str, Any])


def completion_of(hit: Hit) -> dict[str, Any]:
    """The completion object. Raises msgspec.DecodeError: it was readable when it was kept."""
    return _OBJECT.decode(hit.entry.answer)


def whole(completion: dict[str, Any], fields: dict[str, Any] | None) -> bytes:
    """The answer to a request that was not streamed. `fields`: the gateway's own, added to it and to its usage."""
    if fields is None:
        return _ENCODER.encode(completion)
    usage = {**(completion.get("usage") or {}), **fields["usage"]}
    return _ENCODER.encode({**completion, **fields, "usage": usage})


def stream(completion: dict[str, Any], *, include_usage: bool) -> bytes:
    """The same as an event stream, usage where it was asked for."""
    envelope = {key: value for key, value in completion.items() if key not in ("choices", "usage")}
    envelope["object"] = "chat.completion.chunk"
    usage: dict[str, Any] = {"usage": None} if include_usage else {}
    events = [
        _line({**envelope, "choices": [choice], **usage})
        for whole_choice in completion["choices"]
        for choice in _pieces(whole_choice)
    ]
    if include_usage:
        events.append(_line({**envelope, "choices": [], "usage": completion.get("usage")}))
    return b"".join((*events, _DONE))


def _pieces(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The deltas of one choice: the role and what is not text, the text in pieces, the tool calls, the end."""
    message = dict(choice["message"])
    content, calls = message.pop("content", None), message.pop("tool_calls", None)
    rest = {key: value for key, value in choice.items() if key not in ("message", "finish_reason", "logprobs")}
    logprobs = {"logprobs": choice["logprobs"]} if "logprobs" in choice else {}
    first = {**message, "content": None if content is None else ""}
    yield {**rest, "delta": first, **logprobs, "finish_reason": None}
    for text in _texts(content or ""):
        yield {"index": rest["index"], "delta": {"content": text}, "finish_reason": None}
    for index, call in enumerate(calls or ()):
        yield {"index": rest["index"], "delta": {"tool_calls": [{"index": index, **call}]}, "finish_reason": None}
    yield {"index": rest["index"], "delta": {}, "finish_reason": choice["finish_reason"]}


def _texts(text: str) -> Iterator[str]:
    """`text` in pieces, cut behind a space where one is near."""
    start = 0
    while start < len(text):
        end = start + PIECE_CHARS
        if end < len(text):
            space = text.rfind(" ", start + PIECE_CHARS // 2, end)
            end = space + 1 if space > 0 else end
        yield text[start:end]
        start = end


def _line(value: dict[str, Any]) -> bytes:
    return b"data: " + _ENCODER.encode(value) + b"\n\n"
