"""gRPC on one HTTP/2 stream: messages, status, deadlines. Source: grpc/doc/PROTOCOL-HTTP2.md.

In: DATA payloads, split anywhere. Out: whole messages, long ones in the pieces they came in; and the header blocks and
prefixes that we answer with.
"""

import re
import struct
from enum import IntEnum
from urllib.parse import quote

from extproc.body.pieces import LONG_BYTES, Body, Pieces
from extproc.transport.fields import literals

PREFIX = struct.Struct(">BI")  # compressed, length
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
_STATUS_200 = b"\x88"  # RFC 7541, appendix A

NOT_GRPC = literals((":status", "415"), ("content-type", "text/plain"))
RESPONSE = _STATUS_200 + literals(("content-type", "application/grpc"))


class Status(IntEnum):
    """Those of gRPC's status codes that a server gives by itself."""

    OK = 0
    DEADLINE_EXCEEDED = 4
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class RpcFault(Exception):
    """A call ends with a status other than OK."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


OK_TRAILERS = literals(("grpc-status", "0"))


def trailers(status: Status, message: str) -> bytes:
    """The block that ends an answer which has begun."""
    return literals(("grpc-status", str(int(status))), ("grpc-message", quote(message, safe=_PRINTABLE)))


def refusal(status: Status, message: str) -> bytes:
    """The only block of an answer that is nothing but a status."""
    return RESPONSE + trailers(status, message)


def framed(message: bytes) -> bytes:
    """A message with its prefix."""
    return PREFIX.pack(0, len(message)) + message


def timeout_s(value: bytes) -> float | None:
    """`grpc-timeout` in seconds; None without one. Raises RpcFault."""
    if not value:
        return None
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise RpcFault(Status.INTERNAL, "malformed grpc-timeout")
    return int(match[1]) * _UNIT_S[match[2]]


class MessageReader:
    """Payloads to messages."""

    def __init__(self, limit: int) -> None:
        self.missing = 0  # bytes of an announced message that are still to come
        self._limit = limit  # bytes of a message
        self._head = b""  # of a prefix that has not come whole
        self._parts: list[bytes | memoryview] = []

    def feed(self, data: Body) -> list[Body]:
        """The messages that are whole with `data`. Raises RpcFault."""
        found: list[Body] = []
        if isinstance(data, Pieces):
            for part in data.parts:
                if len(part) < self.missing:
                    self._parts.append(part)
                    self.missing -= len(part)
                else:
                    found += self.feed(bytes(part))
            return found
        if self.missing:
            piece, data = data[: self.missing], data[self.missing :]
            self._parts.append(piece)
            self.missing -= len(piece)
            if self.missing:
                return found
            whole = Pieces(self._parts)
            found.append(whole if len(whole) > LONG_BYTES else bytes(whole))
            self._parts = []
        if self._head:
            data = self._head + data
        at, end = 0, len(data)
        while end - at >= PREFIX.size:
            size = self._size(data, at)
            at += PREFIX.size
            if size > end - at:
                self.missing = size - (end - at)
                self._parts = [data[at:]]
                at = end
            else:
                found.append(data[at : at + size])
                at += size
        self._head = data[at:]
        return found

    @property
    def partial(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self.missing or self._head)

    def _size(self, data: bytes, at: int) -> int:
        compressed, size = PREFIX.unpack_from(data, at)
        if compressed:
            raise RpcFault(Status.UNIMPLEMENTED, "compressed messages are not taken")
        if size > self._limit:
            raise RpcFault(Status.RESOURCE_EXHAUSTED, f"message of {size} bytes; at most {self._limit} are taken")
        return int(size)
