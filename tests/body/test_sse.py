"""The SSE reader: line ends, comments, limits, and that no cut of the bytes changes what is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.body.sse import Event, SseReader


def read(pieces: list[bytes], limit: int = 1_000_000) -> list[Event]:
    reader = SseReader(limit)
    events = [event for piece in pieces for event in reader.feed(piece)]
    return events + reader.close()


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


CASES = {
    "one": (b"data: a\n\n", [(b"", b"a")]),
    "no space": (b"data:a\n\n", [(b"", b"a")]),
    "only one space goes": (b"data:  a\n\n", [(b"", b" a")]),
    "named": (b"event: ping\ndata: a\n\ndata: b\n\n", [(b"ping", b"a"), (b"", b"b")]),
    "many lines": (b"data: a\ndata:\ndata: b\n\n", [(b"", b"a\n\nb")]),
    "field without colon": (b"data\n\n", [(b"", b"")]),
    "crlf": (b"data: a\r\n\r\ndata: b\r\n\r\n", [(b"", b"a"), (b"", b"b")]),
    "cr": (b"data: a\r\rdata: b\r\r", [(b"", b"a"), (b"", b"b")]),
    "mixed": (b"data: a\r\n\ndata: b\r\r\n", [(b"", b"a"), (b"", b"b")]),
    "comments": (b": hello\n\n:\n\ndata: a\n: inside\ndata: b\n\n", [(b"", b"a\nb")]),
    "other fields": (b"id: 7\nretry: 10\nwhat: x\ndata: a\n\n", [(b"", b"a")]),
    "name without data": (b"event: ping\n\ndata: a\n\n", [(b"", b"a")]),
    "colons in data": (b"data: a: b\n\n", [(b"", b"a: b")]),
    "byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [(b"", b"a")]),
    "utf-8": ("data: Grüße 👋🏽\n\n".encode(), [(b"", "Grüße 👋🏽".encode())]),
    "not utf-8": (b"data: \xff\xfe\n\n", [(b"", b"\xff\xfe")]),
    "no blank line at the end": (b"data: a\n\ndata: b\n", [(b"", b"a"), (b"", b"b")]),
    "no line end at the end": (b"data: a\n\ndata: b", [(b"", b"a"), (b"", b"b")]),
    "nothing": (b"", []),
}


@pytest.mark.parametrize(("data", "expected"), CASES.values(), ids=CASES.keys())
def test_what_is_read(data: bytes, expected: list[tuple[bytes, bytes]]) -> None:
    events = [Event(name, value) for name, value in expected]
    assert read([data]) == events
    assert read(byte_by_byte(data)) == events


@given(
    st.lists(st.sampled_from([b"data: a", b"data:", b"event: e", b": c", b"\n", b"\r", b"\r\n", b"\xc3\xbc"])),
    st.data(),
)
def test_no_cut_changes_what_is_read(tokens: list[bytes], draw: st.DataObject) -> None:
    data = b"".join(tokens)
    cut = draw.draw(st.integers(0, len(data)))
    assert read([data]) == read([data[:cut], data[cut:]]) == read(byte_by_byte(data))


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_an_event_is_given_out_with_its_last_byte(line_end: bytes) -> None:
    reader = SseReader()
    assert reader.feed(b"data: a" + line_end) == []
    assert reader.feed(line_end[:1]) == [Event(b"", b"a")]


@pytest.mark.parametrize(
    "data", [b"data: " + b"x" * 50 + b"\n\n", b"data: xxxxx\n" * 9 + b"\n", b"x" * 50, b"data\n" * 41]
)
def test_an_event_over_the_limit_ends_the_reading(data: bytes) -> None:
    for pieces in ([b"data: ok\n\n" + data], byte_by_byte(b"data: ok\n\n" + data)):
        reader = SseReader(limit=40)
        assert [event for piece in pieces for event in reader.feed(piece)] == [Event(b"", b"ok")]
        assert reader.broken
        assert reader.feed(b"\n\ndata: more\n\n") == []


def test_the_limit_is_per_event_not_per_stream() -> None:
    reader = SseReader(limit=40)
    assert len(reader.feed(b"data: 0123456789\n\n" * 100)) == 100
    assert not reader.broken
