"""Server-sent events: bytes in, whole events out. One reader for every provider.

In: the bytes of an event stream, split anywhere. Out: `Event`s, each as soon as its blank line is there. Bytes stay
bytes until an event is whole, so a character split over two chunks is never decoded by halves. Used by
`extproc.adapters.reader`. Source: WHATWG HTML, "Server-sent events", section 9.2.6.
"""

import msgspec

MAX_EVENT_BYTES = 32 * 1024 * 1024  # one event may carry a whole answer: as large as the largest request we take
_BOM = b"\xef\xbb\xbf"


class Event(msgspec.Struct, frozen=True):
    """One event: its name, b"" when the stream gave none, and its data lines joined by line feeds."""

    name: bytes
    data: bytes


class SseReader:
    """Reads one stream. `limit` is the largest event accepted, in bytes; after a larger one nothing more is read."""

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self.broken = False  # an event was larger than the limit
        self._limit = limit
        self._line = bytearray()  # the line that is still open
        self._skip_lf = False  # the last byte was CR: a LF that follows belongs to it
        self._fresh = True  # no byte seen yet: a byte order mark may come
        self._name = b""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, data: bytes) -> list[Event]:
        """The events that became whole with `data`."""
        if self.broken:
            return []
        if self._skip_lf and data:
            self._skip_lf = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._skip_lf = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        first, *others = data.split(b"\n")
        self._line += first
        events: list[Event] = []
        if others:
            events = self._lines([bytes(self._line), *others[:-1]])
            self._line = bytearray(others[-1])
        self._check(len(self._line))
        return events

    def close(self) -> list[Event]:
        """The event that the end of the stream leaves without its blank line, if any.

        The standard drops it; providers and proxies that forget the last line feed make it worth reading.
        """
        line, self._line = bytes(self._line), bytearray()
        return self._lines([line, b""])

    def _lines(self, lines: list[bytes]) -> list[Event]:
        if self._fresh and lines:
            self._fresh = False
            lines[0] = lines[0].removeprefix(_BOM)
        events = []
        for line in lines:
            self._check(len(line))
            if self.broken:
                break
            if line:
                self._field(line)
            elif self._data:
                events.append(Event(self._name, b"\n".join(self._data)))
                self._name, self._data, self._data_bytes = b"", [], 0
            else:
                self._name = b""
        return events

    def _field(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        if field == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._data_bytes += len(value) + 1
        elif field == b"event":
            self._name = value.removeprefix(b" ")

    def _check(self, line_bytes: int) -> None:
        self.broken = self.broken or line_bytes + self._data_bytes > self._limit
