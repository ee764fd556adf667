"""Bytes that lie in several places, and are not copied only to stand behind one another.

In: what was read of a long message; a client's long text, views of it, what stands in between. Out: the same to whoever
joins it, once, writes it, or counts it. Made by the transport, `splice` and `frames`.
"""

from collections.abc import Iterable, Sequence

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

    def cut(self, begin: int, end: int) -> "Pieces":
        """The bytes from `begin` to `end`, where they lie."""
        found: list[bytes | memoryview] = []
        at = 0
        for part in self.parts:
            if at < end and at + len(part) > begin:
                found.append(memoryview(part)[max(0, begin - at) : end - at])
            at += len(part)
        return Pieces(found)


Body = bytes | Pieces


def parts_of(body: Body | memoryview) -> Sequence[bytes | memoryview]:
    """Its bytes, wherever they lie."""
    return body.parts if isinstance(body, Pieces) else (body,)


def joined(bodies: Iterable[Body | memoryview]) -> bytes:
    """All of them, copied once."""
    return b"".join([part for body in bodies for part in parts_of(body)])
