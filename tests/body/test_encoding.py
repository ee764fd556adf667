"""Answers that come compressed although nobody asked, and answers without end."""

import gzip
import zlib

import brotli
import pytest

from extproc.body.encoding import MAX_PLAIN_BYTES, Plain

TEXT = "Grüße 👋🏽 ".encode() * 500
WAYS = {
    "": TEXT,
    "identity": TEXT,
    "gzip": gzip.compress(TEXT),
    "x-gzip": gzip.compress(TEXT),
    "deflate": zlib.compress(TEXT),
    "br": brotli.compress(TEXT),
    " BR ": brotli.compress(TEXT),
}


@pytest.mark.parametrize("encoding", WAYS)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_trap_29_the_same_bytes_in_any_cut(encoding: str, size: int) -> None:
    data, plain = WAYS[encoding], Plain(encoding)
    assert b"".join([plain.feed(data[at : at + size]) for at in range(0, len(data), size)]) == TEXT
    assert (plain.error, plain.compressed) == (None, encoding not in ("", "identity"))


@pytest.mark.parametrize("encoding", ["zstd", "gzip, br", "invented"])
def test_trap_29_what_cannot_be_decoded_is_known_from_the_header(encoding: str) -> None:
    plain = Plain(encoding)
    assert plain.error is not None
    assert plain.feed(b"x") == b""


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_trap_29_broken_bytes_are_an_error(encoding: str) -> None:
    plain = Plain(encoding)
    assert plain.feed(b"\xff\xfe no such format") == b""
    assert plain.error is not None


@pytest.mark.parametrize("encoding", ["", "gzip", "br"])
def test_trap_39_an_answer_has_an_end(encoding: str) -> None:
    """Counted as it is read, not as it came: a few kilobytes can be gigabytes."""
    piece = bytes(1024 * 1024)
    data = {"": piece, "gzip": gzip.compress(piece * 100, 1), "br": brotli.compress(piece * 100, quality=1)}[encoding]
    plain, read = Plain(encoding), 0
    for _ in range(100):
        read += len(plain.feed(data))
    assert read <= MAX_PLAIN_BYTES
    assert plain.error is not None
