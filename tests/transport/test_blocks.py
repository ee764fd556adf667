"""Header blocks, frames and messages, each cut or coded in any way."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.body.pieces import LONG_BYTES, Pieces, joined
from extproc.transport import frame
from extproc.transport.fields import BlockDecoder, literals
from extproc.transport.frame import Code
from extproc.transport.message import MessageReader, RpcFault, framed, timeout_s, trailers
from extproc.transport.reader import Frame, FrameReader

NAMES = st.sampled_from(["x-a", "x-b", "x-request-id", "te"])
FIELDS = st.tuples(NAMES, st.sampled_from(["trailers", "1", "2", "3" * 100]), st.booleans())  # kept out of the table?
LISTS = st.lists(st.lists(FIELDS, max_size=6), max_size=40)


@given(LISTS, st.booleans())
def test_blocks_mean_what_hpack_says_however_often_they_come(
    lists: list[list[tuple[str, str, bool]]], small: bool
) -> None:
    encoder, decoder = hpack.Encoder(), BlockDecoder()
    if small:
        encoder.header_table_size = 120  # entries are pushed out all the time
    for fields in lists:
        decoded = decoder.decode(encoder.encode(fields))
        first = {name: value for name, value, _ in reversed(fields)}
        assert {name: decoded.get(name.encode()).decode() for name in first} == first


def test_a_block_that_leaves_the_table_alone_is_decoded_once() -> None:
    encoder, decoder = hpack.Encoder(), BlockDecoder()
    fields = [(":method", "POST"), (":path", "/a.B/C", True), ("te", "trailers")]  # as Envoy: its path is not indexed
    decoder.decode(encoder.encode(fields))
    again = encoder.encode(fields)
    assert decoder.decode(again) is decoder.decode(again)
    assert decoder.decode(encoder.encode([("x", "y")])).get(b"x") == b"y"
    assert decoder.decode(again).get(b"x") == b"y", "the same bytes mean something else once the table has moved on"


@given(st.lists(st.tuples(st.text("abc-", min_size=1, max_size=300), st.text(max_size=300)), max_size=5))
def test_what_we_write_is_what_others_read(fields: list[tuple[str, str]]) -> None:
    found = hpack.Decoder(max_header_list_size=1 << 20).decode(literals(*fields))
    assert [(name, value) for name, value in found] == fields


@given(st.text(max_size=60))
def test_any_message_fits_into_trailers(text: str) -> None:
    (_, (_, message)) = hpack.Decoder().decode(trailers(13, text))
    assert message.isascii()
    assert message.isprintable() or not message


@given(st.lists(st.binary(max_size=50), max_size=10), st.lists(st.integers(1, 20), min_size=1, max_size=30))
def test_messages_in_any_split(messages: list[bytes], sizes: list[int]) -> None:
    sent, reader, found, at, turn = b"".join(map(framed, messages)), MessageReader(50), [], 0, 0
    while at < len(sent):
        size = sizes[turn % len(sizes)]
        found += reader.feed(sent[at : at + size])
        at, turn = at + size, turn + 1
        assert reader.partial or found == messages[: len(found)]
    assert found == messages
    assert not reader.partial


@pytest.mark.parametrize("split", [1, 100])
def test_a_message_is_refused_by_its_prefix(split: int) -> None:
    reader = MessageReader(10)
    sent = framed(b"x" * 10) + framed(b"x" * 11)[:5]
    pieces = [sent[at : at + split] for at in range(0, len(sent), split)]
    for piece in pieces[:-1]:
        reader.feed(piece)
    with pytest.raises(RpcFault, match="11 bytes"):
        reader.feed(pieces[-1])


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"", None), (b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"15m", 0.015), (b"99999999u", 99.999999), (b"5n", 5e-9)],
)
def test_timeouts(value: bytes, seconds: float | None) -> None:
    assert timeout_s(value) == seconds


@pytest.mark.parametrize("value", [b"1", b"S", b"123456789S", b"-1S", b"1s", b"1.5S"])
def test_timeouts_that_are_none(value: bytes) -> None:
    with pytest.raises(RpcFault):
        timeout_s(value)


_PAYLOADS = st.binary(max_size=40) | st.sampled_from([b"a" * frame.FRAME_BYTES, b"b" * frame.FRAME_BYTES])


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 255), st.integers(0, 9), _PAYLOADS), max_size=12)
    | st.lists(st.tuples(st.just(frame.DATA), st.integers(0, 1), st.integers(1, 2), _PAYLOADS), max_size=12),
    st.lists(st.integers(1, 30), min_size=1, max_size=30) | st.lists(st.integers(10_000, 60_000), min_size=1),
)
def test_frames_in_any_split(frames: list[tuple[int, int, int, bytes]], sizes: list[int]) -> None:
    sent = frame.PREFACE + frame.settings({}) + b"".join(frame.frame(*each) for each in frames)
    pieces, at, turn = [], 0, 0
    while at < len(sent):
        size = sizes[turn % len(sizes)]
        pieces.append(sent[at : at + size])
        at, turn = at + size, turn + 1
    found, whole = _read(FrameReader(), pieces), _read(FrameReader(), [sent])
    assert found == whole
    if all(kind == frame.DATA for kind, *_ in frames):
        assert found == _joined([(frame.SETTINGS, 0, 0, b""), *frames])


def test_many_frames_of_a_body_come_as_one_and_their_end_with_the_last() -> None:
    reader, body = FrameReader(), bytes(range(256)) * 640
    parts = [body[at : at + frame.FRAME_BYTES] for at in range(0, len(body), frame.FRAME_BYTES)]
    sent = b"".join(frame.frame(frame.DATA, part is parts[-1], 1, part) for part in parts)
    list(reader.feed(frame.PREFACE + frame.settings({})))
    found = [each for piece in (sent[:100_000], sent[100_000:]) for each in reader.feed(piece)]
    assert [flags for _, flags, _, _ in found] == [0, frame.END_STREAM]
    assert joined(payload for *_, payload in found) == body


def test_what_is_the_lesser_part_of_a_read_does_not_keep_the_rest() -> None:
    reader = FrameReader()
    list(reader.feed(frame.PREFACE + frame.settings({})))
    many = b"".join(frame.frame(frame.DATA, 0, 1, bytes(frame.FRAME_BYTES)) for _ in range(5))
    others = b"".join(frame.frame(frame.DATA, 0, 3, bytes(16_000)) for _ in range(6))
    assert [type(payload) for *_, payload in reader.feed(many + others)] == [bytes] * 7
    assert [type(payload) for *_, payload in reader.feed(many)] == [Pieces]


def test_long_messages_stay_where_they_came() -> None:
    body, reader = bytes(range(256)) * 1_000, MessageReader(1 << 20)
    sent = framed(b"short") + framed(body) + framed(b"short") + framed(body[: LONG_BYTES + 1])
    found = []
    for at in range(0, len(sent), 100_000):
        piece = memoryview(sent)[at : at + 100_000]
        found += reader.feed(Pieces([piece[:3], piece[3:70_000], piece[70_000:]]))
    assert [bytes(each) for each in found] == [b"short", body, b"short", body[: LONG_BYTES + 1]]
    assert [type(each) for each in found] == [bytes, Pieces, bytes, Pieces]
    views = [part for part in found[1].parts if isinstance(part, memoryview)]
    assert sum(map(len, views)) > len(body) // 2
    assert not reader.partial


def _read(reader: FrameReader, pieces: list[bytes]) -> list[Frame] | Code:
    found: list[Frame] = []
    for piece in pieces:
        try:
            found.extend(reader.feed(piece))
        except frame.ConnectionFault as fault:
            return fault.code  # however far it came
    return _joined(found)


def _joined(frames: list[Frame]) -> list[Frame]:
    """With a stream's DATA in one piece wherever it may come so."""
    found: list[Frame] = []
    for kind, flags, stream, payload in frames:
        if kind != frame.DATA or not payload or flags & frame.PADDED:
            found.append((kind, flags, stream, payload))
            continue
        before = found.pop()[3] if found and found[-1][:3] == (kind, 0, stream) and found[-1][3] else b""
        found.append((kind, flags & frame.END_STREAM, stream, before + bytes(payload)))
    return found
