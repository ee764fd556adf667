"""AWS's binary event stream: bytes in, whole events out.

In: the bytes of an `application/vnd.amazon.eventstream`, split anywhere. Out: `Event`s, each as soon as its last byte
is there and both its checksums are right. Used by `adapters.bedrock` in the place of `extproc.body.sse`.
Source: smithy.io/2.0/aws/amazon-eventstream.html.

    4 bytes  length of the whole message      4 bytes  length of its headers      4 bytes  CRC32 of these eight
    headers: 1 byte of length, name, 1 byte of type, value               payload   4 bytes  CRC32 of all before
"""

import struct
import zlib

from extproc.body.sse import MAX_EVENT_BYTES, Event

_PRELUDE = struct.Struct(">III")
_CHECKSUM = struct.Struct(">I")
_LENGTH = struct.Struct(">H")
_AROUND = _PRELUDE.size + _CHECKSUM.size
_STRING = 7
# Bytes of a value by its type: true, false, byte, short, int, long, (bytes, string: a length comes first), time, UUID.
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
_SAYS = {"event": ":event-type", "exception": ":exception-type", "error": ":error-code"}


class EventStreamReader:
    """Reads one stream. An event's name is the kind of message and its type: `event:chunk`,
    `exception:throttlingException`, `error:InternalError`; its data the payload."""

    def __init__(self) -> None:
        self.broken = False  # what came is no such stream, or was damaged: nothing more is read
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Event]:
        """The events that became whole with `data`."""
        events: list[Event] = []
        if self.broken:
            return events
        self._buffer += data
        try:
            while (event := self._next()) is not None:
                events.append(event)
        except (ValueError, struct.error, IndexError):
            self.broken = True
        return events

    def close(self) -> list[Event]:
        """Nothing: a message without its end cannot be checked."""
        return []

    def _next(self) -> Event | None:
        """The first message, taken off. None: it is not all there. Raises if it is none."""
        buffer = self._buffer
        if len(buffer) < _PRELUDE.size:
            return None
        total, headers, checksum = _PRELUDE.unpack_from(buffer)
        if checksum != zlib.crc32(buffer[:8]) or not headers + _AROUND <= total <= MAX_EVENT_BYTES:
            raise ValueError
        if len(buffer) < total:
            return None
        message = bytes(buffer[:total])
        del buffer[:total]
        if _CHECKSUM.unpack(message[-4:])[0] != zlib.crc32(message[:-4]):
            raise ValueError
        end = _PRELUDE.size + headers
        said = _strings(message[_PRELUDE.size : end])
        kind = said.get(":message-type", "event")
        return Event(f"{kind}:{said.get(_SAYS.get(kind, ''), '')}".encode(), message[end:-4])


def _strings(data: bytes) -> dict[str, str]:
    """The headers whose values are strings. Raises ValueError, IndexError or struct.error."""
    found = {}
    at = 0
    while at < len(data):
        name_end = at + 1 + data[at]
        kind, value = data[name_end], name_end + 1
        if kind in (6, _STRING):
            size = _LENGTH.unpack_from(data, value)[0]
            value += _LENGTH.size
        elif kind in _SIZES:
            size = _SIZES[kind]
        else:
            raise ValueError
        if value + size > len(data):
            raise ValueError
        if kind == _STRING:
            found[data[at + 1 : name_end].decode()] = data[value : value + size].decode()
        at = value + size
    return found
