"""The contract between the gateway and a provider's format. Sans-I/O: bytes in, values out.

One instance per attempt; whatever a stream needs to remember (response id, tool index, open blocks) lives in it.

    request(chat) -> ProviderRequest        before the attempt; raises InvalidRequest naming what it cannot express
    feed(data)    -> list of chunks         as the provider's body arrives, split anywhere; [] means "need more"
    finish()      -> Final                  when the provider's body ended, however it ended; may hold last chunks
    error(...)    -> GatewayError           instead of feed/finish, for a status >= 400

Chunks are OpenAI `chat.completion.chunk` objects as dicts. A non-streaming answer is fed whole to the same `feed` and
folded by `fold`, so that both ways share one path. Called by `extproc.exchange`, found in `adapters.registry`.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from extproc.errors import GatewayError
from extproc.records import ChatRequest, ProviderRequest, Usage

Chunk = dict[str, Any]


class Final(msgspec.Struct, frozen=True, kw_only=True):
    """How the provider's answer ended."""

    usage: Usage | None = None
    finish_reason: str | None = None  # OpenAI's names: stop, length, tool_calls, content_filter
    complete: bool = False  # the format's own terminal event (or a whole JSON body) was seen
    error: GatewayError | None = None  # why it is not complete: an error inside the answer, unreadable, cut short
    chunks: tuple[Chunk, ...] = ()  # chunks that became whole only with the end; they follow those of `feed`


class Adapter(Protocol):
    """A provider's format, for one attempt."""

    @property
    def complete(self) -> bool:
        """Whether the answer's own last word was fed: nothing that still comes belongs to it."""

    def request(self, chat: ChatRequest) -> ProviderRequest:
        """The provider's request for `chat`. Raises InvalidRequest (param named) for what it cannot express."""

    def feed(self, data: bytes) -> list[Chunk]:
        """The chunks that became whole with `data`. Never raises on a provider's bytes: `finish` tells."""

    def finish(self) -> Final:
        """Usage, finish reason and whether the answer was whole. Call once, after the last `feed`."""

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
        """What the client is told of a provider's error status (>= 400). `headers` are lower case."""
