"""The bytes of HTTP/1.1: request heads in, plans of timed writes out.

In: a request head; a `Reply` made by a format. Out: a `Request`; a `Plan`: what is written, in which pieces, how far
apart, and how it ends. Pure. Every fault that happens to bytes (rather than to what they say) is made here.
"""

import gzip
import itertools
import re
import zlib
from http import HTTPStatus
from typing import Literal
from urllib.parse import unquote

import msgspec

from control.demo.faults import Faults, Moment

End = Literal["keep", "close", "reset", "hang"]

SPLIT_GAP_S = 0.001  # between the two halves of a split character, so that they arrive apart
_MULTIBYTE = re.compile(rb"[\xc2-\xf4](?=[\x80-\xbf])")
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus} | {529: b"Overloaded"}


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request head. Header names are lower case; `path` is without query, percent-decoded."""

    method: str
    path: str
    query: str
    headers: dict[str, str]


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as its format says it: the events of a stream, or one body."""

    status: int
    headers: tuple[bytes, ...]  # whole header lines, without line end
    frames: list[bytes]
    weights: list[int]  # per frame: the bytes of it that count as output
    sse: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is written: `head`, then `parts`, `gap_s` apart (None: as fast as can be, 0: in separate writes)."""

    head: bytes
    parts: list[bytes]
    weights: list[int]
    status: int
    first_byte_s: float = 0.0
    gap_s: float | None = None
    end: End = "keep"
    whole: bool = True  # the answer is all there


class BadRequest(ValueError):
    """The bytes are not a request that this server reads."""


def parse_head(head: bytes) -> Request:
    """A request head, from its first byte to before the empty line. Raises BadRequest."""
    lines = head.decode("latin-1").split("\r\n")
    try:
        method, target, version = lines[0].split(" ")
    except ValueError:
        raise BadRequest("not a request line") from None
    if version != "HTTP/1.1":
        raise BadRequest("only HTTP/1.1 is spoken here")
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadRequest("not a header line")
        headers[name.lower()] = value.strip()
    path, _, query = target.partition("?")
    return Request(method=method, path=unquote(path) if "%" in path else path, query=query, headers=headers)


def plan(reply: Reply, faults: Faults, *, keep_alive: bool = True) -> Plan:
    """How `reply` goes onto the wire under `faults`."""
    moment, end = _end(faults)
    if not keep_alive and end == "keep":
        end = "close"
    frames, weights = list(reply.frames), list(reply.weights)
    whole = sum(map(len, frames))
    if reply.sse and (faults.crlf or faults.line_end):
        frames = [_line_ends(frame, faults.line_end or "crlf") for frame in frames]
    if moment == "mid_stream" or faults.end_mid_stream:
        frames, weights = _cut(frames, weights, faults.at, sse=reply.sse)
    if faults.gzip:
        frames, whole = _gzip(frames, whole, sse=reply.sse)
    gap_s = None if faults.chunk_interval_ms is None or not reply.sse else faults.chunk_interval_ms / 1000
    small = faults.one_byte_chunks or faults.split_utf8
    if small:
        frames, weights = _split(frames, weights, one_byte=faults.one_byte_chunks)
        gap_s = 0.0 if faults.one_byte_chunks else max(gap_s or 0.0, SPLIT_GAP_S)
    chunked = reply.sse or small
    parts = [b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames] if chunked else frames
    if chunked and moment is None:
        parts, weights = _terminated(parts, weights)
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % whole
    if faults.end_mid_stream and not chunked:
        framing = b"content-length: %d" % sum(map(len, frames))
    head = _head(reply, framing, gzipped=faults.gzip, closing=not keep_alive)
    if moment in ("before_headers", "after_headers"):
        parts, weights = [], []
    return Plan(
        head=b"" if moment == "before_headers" else head,
        parts=parts,
        weights=weights,
        status=0 if moment == "before_headers" else reply.status,
        first_byte_s=(faults.first_byte_ms or 0.0) / 1000,
        gap_s=gap_s,
        end=end,
        whole=moment is None and not faults.end_mid_stream and not faults.error_in_stream,
    )


def _end(faults: Faults) -> tuple[Moment | None, End]:
    if faults.reset:
        return faults.reset, "reset"
    if faults.hang:
        return faults.hang, "hang"
    return ("mid_stream", "close") if faults.close_mid_stream else (None, "keep")


def _head(reply: Reply, framing: bytes, *, gzipped: bool, closing: bool) -> bytes:
    lines = [b"HTTP/1.1 %d %b" % (reply.status, _REASONS.get(reply.status, b"Unknown")), *reply.headers, framing]
    if gzipped:
        lines.append(b"content-encoding: gzip")
    if closing:
        lines.append(b"connection: close")
    return b"\r\n".join((*lines, b"", b""))


def _line_ends(frame: bytes, kind: str) -> bytes:
    lines = frame.replace(b"\r\n", b"\n")
    return lines.replace(b"\n", {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}[kind])


def cut_at(weights: list[int], at: int | None) -> int:
    """The number of frames that come before a mid-stream fault: up to the `at`-th one with text (default: half)."""
    bearing = [index for index, weight in enumerate(weights) if weight]
    wanted = len(bearing) // 2 if at is None else at
    if wanted < len(bearing):
        return bearing[wanted]
    return bearing[-1] + 1 if bearing else len(weights) // 2


def _cut(frames: list[bytes], weights: list[int], at: int | None, *, sse: bool) -> tuple[list[bytes], list[int]]:
    if sse:
        index = cut_at(weights, at)
        return frames[:index], weights[:index]
    half = len(frames[0]) // 2
    return [frames[0][:half]], [weights[0] // 2]


def _gzip(frames: list[bytes], whole: int, *, sse: bool) -> tuple[list[bytes], int]:
    if not sse:
        body = gzip.compress(b"".join(frames), mtime=0)
        return [body], len(body)
    packer = zlib.compressobj(wbits=31)
    packed = [packer.compress(frame) + packer.flush(zlib.Z_SYNC_FLUSH) for frame in frames]
    return [*packed[:-1], packed[-1] + packer.flush()], whole


def _split(frames: list[bytes], weights: list[int], *, one_byte: bool) -> tuple[list[bytes], list[int]]:
    """Every frame in single bytes, or cut inside every multi-byte character; the last piece carries the weight."""
    pieces: list[bytes] = []
    carried: list[int] = []
    for frame, weight in zip(frames, weights, strict=True):
        cuts = range(1, len(frame)) if one_byte else [match.end() for match in _MULTIBYTE.finditer(frame)]
        edges = [0, *cuts, len(frame)]
        new = [frame[start:stop] for start, stop in itertools.pairwise(edges) if stop > start]
        pieces += new
        carried += [0] * (len(new) - 1) + [weight]
    return pieces, carried


def _terminated(parts: list[bytes], weights: list[int]) -> tuple[list[bytes], list[int]]:
    last = b"0\r\n\r\n"
    return ([*parts[:-1], parts[-1] + last], weights) if parts else ([last], [0])
