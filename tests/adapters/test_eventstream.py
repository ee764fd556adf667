"""AWS's event stream, written by the simulator, which shares no code with the reader."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.demo.bedrock import message
from extproc.adapters.eventstream import EventStreamReader
from extproc.body.sse import MAX_EVENT_BYTES, Event

from .cases import at

PAYLOADS = st.lists(
    st.tuples(
        st.dictionaries(st.text(), st.text(), max_size=3),
        st.none() | st.sampled_from(["throttlingException", "validationException"]),
    ),
    min_size=1,
    max_size=6,
)


def read(*pieces: bytes) -> tuple[list[Event], bool]:
    reader = EventStreamReader()
    events = [event for piece in pieces for event in reader.feed(piece)]
    return events + reader.close(), reader.broken


def framed(headers: bytes, payload: bytes = b"") -> bytes:
    prelude = struct.pack(">II", len(headers) + len(payload) + 16, len(headers))
    whole = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return whole + struct.pack(">I", zlib.crc32(whole))


@given(PAYLOADS, st.data())
def test_any_split_gives_the_same_events(said: list[tuple[dict[str, str], str | None]], data: st.DataObject) -> None:
    stream = b"".join(message(payload, exception) for payload, exception in said)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))
    events, broken = read(*at(stream, cuts))
    assert not broken
    names = [b"event:chunk" if exception is None else f"exception:{exception}".encode() for _, exception in said]
    assert [event.name for event in events] == names
    assert (events, False) == read(stream) == read(*(stream[i : i + 1] for i in range(len(stream))))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_damaged_byte_is_found(where: int, change: int) -> None:
    first, second = message({"bytes": "aGVsbG8="}), message({"bytes": "d29ybGQ="})
    stream = bytearray(first + second)
    place = len(first) + where % len(second)
    stream[place] ^= change
    events, broken = read(bytes(stream), first)
    assert events == read(first)[0], "what came whole before it counts, nothing after it"
    assert broken


@pytest.mark.parametrize(
    "stream",
    [
        b"<html>502 Bad Gateway</html>",
        b'data: {"type": "ping"}\n\n',
        bytes(16),
        framed(b"\x05:name"),
        framed(b"\x05:name\x07"),
        framed(b"\x05:name\x07\x00\x09short"),
        framed(b"\x05:name\x0a"),
        framed(b"\x02ab\x07\x00\x01\xff"),
        framed(b"\x01a\x05\x00"),
        framed(b"\xff"),
    ],
)
def test_what_is_no_such_stream_is_broken(stream: bytes) -> None:
    assert read(stream) == ([], True)
    assert read(*(stream[i : i + 1] for i in range(len(stream)))) == ([], True)


@pytest.mark.parametrize(("total", "headers"), [(15, 0), (16, 1), (MAX_EVENT_BYTES + 1, 0)])
def test_lengths_that_cannot_be_are_broken_before_anything_is_gathered(total: int, headers: int) -> None:
    prelude = struct.pack(">II", total, headers)
    assert read(prelude + struct.pack(">I", zlib.crc32(prelude))) == ([], True)


def test_headers_of_every_type() -> None:
    values = [b"\x00", b"\x01", b"\x02\x01", b"\x03\x00\x01", b"\x04" + bytes(4), b"\x05" + bytes(8)]
    values += [b"\x06\x00\x02xy", b"\x08" + bytes(8), b"\x09" + bytes(16)]
    headers = b"".join(b"\x01h" + value for value in values)
    headers += b"\x0d:message-type\x07\x00\x05error" + b"\x0b:error-code\x07\x00\x0dInternalError"
    assert read(framed(headers, b"{}")) == ([Event(b"error:InternalError", b"{}")], False)


def test_a_message_cut_off_is_no_event() -> None:
    whole = message({"bytes": ""})
    assert read(whole, whole[:-1]) == (read(whole)[0], False)
