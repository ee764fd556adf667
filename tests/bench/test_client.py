"""The client's reader: the same counts however the bytes are split."""

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.client import TAIL_BYTES, Reader, UnreadableError

EVENTS = [b'data: {"n":%d}\n\n' % index for index in range(7)] + [b"data: [DONE]\n\n"]
BODY = b"".join(EVENTS)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: x\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


def chunked(pieces: list[bytes]) -> bytes:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


def split(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return (data[start:stop] for start, stop in itertools.pairwise(edges) if stop > start)


cuts = st.lists(st.integers(0, len(WHOLE)), max_size=12)


@given(cuts, cuts, st.booleans())
def test_any_split_counts_the_same(framing: list[int], arriving: list[int], by_length: bool) -> None:
    data = WHOLE if by_length else chunked(list(split(BODY, framing)))
    reader = Reader()
    done = [reader.feed(piece) for piece in split(data, arriving)]
    assert done == [False] * (len(done) - 1) + [True]
    assert (reader.status, reader.events, reader.body_bytes) == (200, len(EVENTS), len(BODY))
    assert reader.tail == BODY[-TAIL_BYTES:]


def test_an_empty_body_is_whole_with_its_head() -> None:
    assert Reader().feed(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{}",
        b"x" * 70_000,
    ],
)
def test_what_is_no_answer_raises(data: bytes) -> None:
    with pytest.raises(UnreadableError):
        Reader().feed(data)
