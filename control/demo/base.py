"""What a wire format is to the server, and the errors it can give.

In: a request head and body. Out: an `Ask`; later a `Reply` made of the `Answer`. One `Format` object per provider in
`openai`, `anthropic`, `google` and `bedrock`, called by `server` only. Pure.
"""

from typing import Any, Protocol

import msgspec

from control.demo.ask import Answer, Ask, FormatName
from control.demo.faults import Faults
from control.demo.wire import Reply, Request, cut_at


class Refused(Exception):
    """The provider refuses the request; `kind` is the error's type, or None for the usual one of the status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        param: str | None = None,
        code: str | None = None,
        details: list[dict[str, Any]] | None = None,
        retry_after: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.details = details
        self.retry_after = retry_after


class Meta(msgspec.Struct, frozen=True):
    """What differs between two answers to the same request."""

    unique: str  # 32 hex digits
    created: int  # seconds since the epoch


class Format(Protocol):
    """One provider's wire format."""

    name: FormatName

    def authorize(self, request: Request, api_key: str) -> None:
        """Raises Refused, as the provider would, unless the request carries `api_key`."""

    def read(self, request: Request, body: bytes) -> Ask:
        """The request's meaning. Raises Refused for what the provider would refuse."""

    def reply(self, ask: Ask, answer: Answer, meta: Meta, faults: Faults) -> Reply:
        """The answer in this format, streamed if asked so, with the faults that concern what is said."""

    def failure(self, refused: Refused, meta: Meta, /) -> Reply:
        """An error answer in this format."""


def decode_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises ValueError with the reason."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"could not parse the JSON body: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("the JSON body must be an object")
    return value


def json_text(text: str) -> bytes:
    """`text` as it stands inside a JSON string, without the quotes."""
    return msgspec.json.encode(text)[1:-1]


def is_number(value: object) -> bool:
    """A JSON number (true and false are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """A JSON integer."""
    return isinstance(value, int) and not isinstance(value, bool)


def disturbed(
    frames: list[bytes], weights: list[int], faults: Faults, error_event: bytes
) -> tuple[list[bytes], list[int]]:
    """A stream's events with the format's error event, or with nonsense, in the middle, if `faults` ask for it."""
    if not faults.error_in_stream and not faults.malformed_sse:
        return frames, weights
    index = cut_at(weights, faults.at)
    if faults.error_in_stream:
        return [*frames[:index], error_event], [*weights[:index], 0]
    nonsense = [b'data: {"id":"broken","object":"chat.compl\n\n', b"<html>502 Bad Gateway</html>\n\n"]
    return [*frames[:index], *nonsense, *frames[index:]], [*weights[:index], 0, 0, *weights[index:]]
