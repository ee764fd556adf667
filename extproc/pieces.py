"""Bytes that lie in several places, and are not copied only to stand behind one another.

In: a client's long text, views of it, what stands in between. Out: the same to whoever writes it, or counts it. Made by
`splice` and `frames`; the transport writes the parts.
"""

from collections.abc import Sequence

LONG_BYTES = 64 * 1024  # from here on a copy costs more than carrying parts


class Pieces:
    """So many bytes, in parts, none of which is empty: Envoy hangs up on a peer that sends frames of nothing."""

    __slots__ = ("_size", "parts")

    def __init__(self, parts: Sequence[bytes | memoryview]) -> None:
        self.parts = [part for part in parts if len(part)]
        self._size = sum(map(len, parts))

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return b"".join(self.parts)


Body = bytes | Pieces


def parts_of(body: Body) -> Sequence[bytes | memoryview]:
    """Its bytes, wherever they lie."""
    return body.parts if isinstance(body, Pieces) else (body,)
