"""Plain bytes from a provider that compresses although it was asked not to.

In: the `content-encoding` of an answer and its bytes, split anywhere. Out: plain bytes. Envoy's own decompressor is not
used: it adds trailers, behind which a stream cannot be ended (envoy/README.md). Called by the exchange.
"""

import zlib

from extproc.errors import ProviderError

MAX_PLAIN_BYTES = 64 * 1024 * 1024
_ANY_WRAPPER = 47  # zlib's window bits for "gzip or zlib, see for yourself"
_ZLIB = ("gzip", "x-gzip", "deflate")


class Plain:
    """The decoder of one answer. What it cannot decode it drops, and says so in `error`."""

    def __init__(self, encoding: str) -> None:
        encoding = encoding.strip().lower()
        self.compressed = encoding not in ("", "identity")
        self.error: ProviderError | None = None
        self._zlib = zlib.decompressobj(_ANY_WRAPPER) if encoding in _ZLIB else None
        self._left = MAX_PLAIN_BYTES
        if self.compressed and self._zlib is None:
            self.error = ProviderError("The provider's answer has a content-encoding that nobody asked for.")

    def feed(self, data: bytes) -> bytes:
        """The plain bytes of `data`; b"" once there is an `error`."""
        if self.error is not None:
            return b""
        if self._zlib is None:
            return data
        try:
            plain = self._zlib.decompress(data, self._left + 1)
        except zlib.error:
            self.error = ProviderError("The provider's compressed answer could not be read.")
            return b""
        self._left -= len(plain)
        if self._left < 0:
            self.error = ProviderError("The provider's compressed answer is too large.")
            return b""
        return plain
