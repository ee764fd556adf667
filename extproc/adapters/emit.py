"""An adapter's chunks -> the bytes of the client's event stream.

In: the provider's bytes, given on to the adapter. Out: `data:` lines as OpenAI's clients expect them: usage only where
it was asked for, then exactly one `[DONE]` if the answer was complete, else an error and neither. Called by
`extproc.exchange`, one per streamed answer.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from extproc.adapters.base import Adapter, Chunk, Final
from extproc.errors import GatewayError

_ENCODER = msgspec.json.Encoder()
_DONE = b"data: [DONE]\n\n"


class ClientStream:
    """One client's stream. `include_usage`: the client asked for the usage chunk; then all other chunks say that they
    have none, unless not `null_usage`. `finished`: all was said."""

    def __init__(self, adapter: Adapter, include_usage: bool, *, null_usage: bool = True) -> None:
        self.finished = False
        self._adapter = adapter
        self._include_usage = include_usage
        self._null_usage = include_usage and null_usage
        self._usage: Chunk | None = None  # the usage chunk, kept back for the end

    @property
    def complete(self) -> bool:
        """Whether all was fed that belongs to the answer: `finish` it, though the provider's body may go on."""
        return self._adapter.complete

    def feed(self, data: bytes) -> bytes:
        """The client's bytes for a piece of the provider's; b"" means nothing to send yet."""
        return self._lines(self._adapter.feed(data))

    def finish(self, error: GatewayError | None = None) -> tuple[bytes, Final]:
        """The last bytes, and how it ended. Call once, when it is complete or cut. `error`: what broke it."""
        self.finished = True
        final = self._adapter.finish()
        if error is not None:
            final = msgspec.structs.replace(final, error=error, complete=False)
        out = self._lines(final.chunks)
        if final.error is not None:
            return out + _line(final.error.payload()), final
        if self._include_usage and self._usage is not None:
            out += _line(self._usage)
        return out + _DONE, final

    def _lines(self, chunks: Iterable[Chunk]) -> bytes:
        return b"".join([_line(chunk) for chunk in chunks if self._visible(chunk)])

    def _visible(self, chunk: Chunk) -> bool:
        """Take the usage out of `chunk` (providers put it on a chunk of its own, on the last one, or on every one)."""
        usage = chunk.pop("usage", None)
        if self._null_usage:
            chunk["usage"] = None
        if usage is None:
            return True
        self._usage = {**chunk, "choices": [], "usage": usage}
        return bool(chunk["choices"])


def _line(value: dict[str, Any]) -> bytes:
    return b"data: " + _ENCODER.encode(value) + b"\n\n"
