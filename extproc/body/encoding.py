"""Plain bytes from a provider that compresses although it was asked not to.

In: the `content-encoding` of an answer and its bytes, split anywhere. Out: plain bytes. Envoy's own decompressor is not
used: it adds trailers, behind which a stream cannot be ended (envoy/README.md). Called by the exchange.
"""

import zlib
from collections.abc import Callable
from typing import Any

import brotli

from extproc.errors import ProviderError

MAX_PLAIN_BYTES = 64 * 1024 * 1024  # of one answer, however small it came: no provider may keep a stream up for ever
_ANY_WRAPPER = 47  # zlib's window bits for "gzip or zlib, see for yourself"

# A piece and the most bytes to make of it -> plain bytes. More of them than one over the limit are not made.
_Decode = Callable[[bytes, int], bytes]


def _zlib() -> _Decode:
    return zlib.decompressobj(_ANY_WRAPPER).decompress


def _brotli() -> _Decode:
    decoder: Any = brotli.Decompressor()
    return lambda data, limit: decoder.process(data, output_buffer_limit=limit)


def _identity() -> _Decode:
    return lambda data, _: data


_DECODERS: dict[str, Callable[[], _Decode]] = {
    "": _identity,
    "identity": _identity,
    "gzip": _zlib,
    "x-gzip": _zlib,
    "deflate": _zlib,
    "br": _brotli,
}


class Plain:
    """The decoder of one answer. What it cannot decode it drops, and says so in `error`."""

    def __init__(self, encoding: str) -> None:
        decoder = _DECODERS.get(encoding.strip().lower())
        self.compressed = decoder is not _identity
        self.error: ProviderError | None = None
        self._decode = decoder() if decoder else None
        self._left = MAX_PLAIN_BYTES
        if self._decode is None:
            self.error = ProviderError("The provider's answer has a content-encoding that nobody asked for.")

    def feed(self, data: bytes) -> bytes:
        """The plain bytes of `data`; b"" once there is an `error`."""
        if self._decode is None or self.error is not None:
            return b""
        try:
            plain = self._decode(data, self._left + 1)
        except (zlib.error, brotli.error):
            self.error = ProviderError("The provider's compressed answer could not be read.")
            return b""
        self._left -= len(plain)
        if self._left < 0:
            self.error = ProviderError("The provider's answer is too large.")
            return b""
        return plain
