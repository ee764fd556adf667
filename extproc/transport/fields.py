"""Header blocks: HPACK to checked fields, and the blocks we send.

In: whole header blocks of one connection, in order. Out: `Fields`, with what is wrong with them, if anything. Envoy
sends the same block for every request (but the first, all its fields are in the table or literal): it is decoded once.
What we send never uses the dynamic table, so it has no state and can be made once and for all. Its first block says so
(a table size of 0), which RFC 7541, section 4.2 also wants after the peer shrank its table.
"""

import re
from collections.abc import Sequence
from typing import Any

from hpack import Decoder, HPACKError, OversizedHeaderListError

from extproc.transport.frame import Code, ConnectionFault

HEADER_LIST_BYTES = 65_536  # of one block, decoded, plus 32 for each field (RFC 9113, section 6.5.2)
NO_TABLE = b"\x20"
_KEPT_BLOCKS = 64
_KEPT_BYTES = 1024  # of a block

_NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE = re.compile(rb"[\x00\r\n]|^[ \t]|[ \t]$")
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_HOP_BY_HOP = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})


class Fields:
    """The fields of one block. A name that comes twice keeps its first value. Most requests have the very same one."""

    __slots__ = ("_values", "asked", "is_trailer", "problem", "request_problem")

    def __init__(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        self._values: dict[bytes, bytes] = {}
        for name, value in pairs:
            self._values.setdefault(name, value)
        self.problem = _problem(pairs)  # of any block
        self.is_trailer = not any(name.startswith(b":") for name in self._values)
        self.request_problem = self.problem or self._request_problem()
        self.asked: Any = None  # whatever is served to such a request

    def get(self, name: bytes) -> bytes:
        """A field's value, or nothing."""
        return self._values.get(name, b"")

    def _request_problem(self) -> str | None:
        """What makes this block no request: RFC 9113, section 8.3.1."""
        required = (
            {b":method", b":authority"} if self.get(b":method") == b"CONNECT" else {b":method", b":scheme", b":path"}
        )
        if not all(self.get(name) for name in required):
            return "a pseudo-header field is missing or empty"
        length = self.get(b"content-length")
        return "content-length is not a number" if length and not length.isdigit() else None


class BlockDecoder:
    """HPACK of one connection. Blocks must come whole, each once, in order."""

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=HEADER_LIST_BYTES)
        self._known: dict[bytes, Fields] = {}

    def decode(self, block: bytes) -> Fields:
        """The fields of `block`. Raises ConnectionFault: the table is out of step from then on."""
        known = self._known.get(block)
        if known is not None:
            return known
        entries, first, maximum = self._table()
        try:
            pairs = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "header list too large") from None
        except HPACKError as error:
            raise ConnectionFault(Code.COMPRESSION_ERROR, str(error)) from None
        fields = Fields(pairs)  # type: ignore[arg-type]  # raw: bytes
        now, first_now, maximum_now = self._table()
        if (entries, maximum) != (now, maximum_now) or first is not first_now or len(self._known) >= _KEPT_BLOCKS:
            self._known.clear()  # the table has changed, and with it what blocks mean
        elif len(block) <= _KEPT_BYTES:
            self._known[block] = fields
        return fields

    def _table(self) -> tuple[int, object, int]:
        """What changes when the table does: a new entry is another object, even if it says the same."""
        table = self._decoder.header_table
        entries = table.dynamic_entries
        return len(entries), entries[0] if entries else None, table.maxsize


def literals(*pairs: tuple[str, str]) -> bytes:
    """A block of literal fields that no table needs to know: RFC 7541, section 6.2.2."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in pairs)


def _string(text: str) -> bytes:
    data = text.encode()
    return _integer(len(data)) + data


def _integer(value: int) -> bytes:
    """RFC 7541, section 5.1, with a prefix of seven bits."""
    if value < 127:
        return bytes((value,))
    out, value = bytearray((127,)), value - 127
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def _problem(pairs: Sequence[tuple[bytes, bytes]]) -> str | None:
    """What makes any block malformed: RFC 9113, sections 8.2 and 8.3."""
    seen: set[bytes] = set()
    regular = False
    for name, value in pairs:
        if not _NAME.fullmatch(name) or _BAD_VALUE.search(value):
            return "a field's name or value has characters it must not have"
        if name.startswith(b":"):
            if regular or name in seen or name not in _PSEUDO:
                return "a pseudo-header field is unknown, repeated or out of place"
            seen.add(name)
        else:
            regular = True
            if name in _HOP_BY_HOP or (name == b"te" and value != b"trailers"):
                return "a field is specific to HTTP/1 connections"
    return None
