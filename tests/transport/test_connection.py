"""HTTP/2 as RFC 9113 says: what breaks a connection, what breaks a stream, and who may send how much."""

import struct

import hpack
import pytest

from extproc.transport import frame
from extproc.transport.calm import BURST, PER_SECOND
from extproc.transport.connection import CONNECTION_WINDOW, MAX_STREAMS, Connection
from extproc.transport.events import Data, Event, Request, Reset, Writable
from extproc.transport.frame import Code, Setting
from tests.transport.peer import HEADERS

OPEN = frame.PREFACE + frame.settings({})
END = frame.END_HEADERS | frame.END_STREAM


def block(*more: tuple[str, str], without: str = "") -> bytes:
    fields = [(name, value) for name, value in HEADERS if name != without]
    return hpack.Encoder().encode([*fields, *more])


def headers(stream: int = 1, flags: int = frame.END_HEADERS, payload: bytes | None = None) -> bytes:
    return frame.frame(frame.HEADERS, flags, stream, block() if payload is None else payload)


def data(payload: bytes = b"", stream: int = 1, flags: int = 0) -> bytes:
    return frame.frame(frame.DATA, flags, stream, payload)


def update(stream: int, more: int) -> bytes:
    return frame.frame(frame.WINDOW_UPDATE, 0, stream, struct.pack(">I", more))


def priority(stream: int, size: int = 5) -> bytes:
    return frame.frame(frame.PRIORITY, 0, stream, bytes(size))


class Server:
    """A connection with its first frames exchanged."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.connection = Connection(lambda: self.now_s)
        self.events: list[Event] = []
        self.feed(OPEN)
        self.sent = []

    def feed(self, *pieces: bytes) -> "Server":
        for piece in pieces:
            self.events += self.connection.receive(piece)
        self.sent = frames(b"".join(self.connection.sender.take()))
        return self

    def codes(self, kind: int) -> list[int]:
        """The error codes of frames of this kind in what was sent last."""
        at = 4 if kind == frame.GOAWAY else 0
        return [struct.unpack_from(">I", payload, at)[0] for sent, _, _, payload in self.sent if sent == kind]


def frames(sent: bytes) -> list[tuple[int, int, int, bytes]]:
    found, at = [], 0
    while at < len(sent):
        word, flags, stream = frame.HEADER.unpack_from(sent, at)
        at += 9 + (word >> 8)
        found.append((word & 0xFF, flags, stream, sent[at - (word >> 8) : at]))
    return found


def test_it_says_its_settings_first_and_acknowledges_the_peers() -> None:
    connection = Connection(lambda: 0.0)
    (kind, flags, _, payload), (update_kind, *_) = frames(b"".join(connection.sender.take()))
    assert (kind, flags, update_kind) == (frame.SETTINGS, 0, frame.WINDOW_UPDATE)
    assert struct.pack(">HI", Setting.MAX_CONCURRENT_STREAMS, MAX_STREAMS) in payload
    connection.receive(OPEN)
    assert frames(b"".join(connection.sender.take())) == [(frame.SETTINGS, frame.ACK, 0, b"")]


BROKEN_CONNECTIONS = {
    "no stream for DATA": (data(stream=0), Code.PROTOCOL_ERROR),
    "idle stream for DATA": (data(stream=5), Code.PROTOCOL_ERROR),
    "padding larger than DATA": (headers() + data(b"\x05abc", flags=frame.PADDED), Code.PROTOCOL_ERROR),
    "padding without room": (headers() + data(b"", flags=frame.PADDED), Code.PROTOCOL_ERROR),
    "frame too large": (headers() + data(bytes(16_385)), Code.FRAME_SIZE_ERROR),
    "stream 0 for HEADERS": (headers(0), Code.PROTOCOL_ERROR),
    "a server's stream": (headers(2), Code.PROTOCOL_ERROR),
    "a lower stream": (headers(5) + headers(3), Code.PROTOCOL_ERROR),
    "padding larger than HEADERS": (headers(flags=4 | 8, payload=b"\xff" + block()), Code.PROTOCOL_ERROR),
    "no room for the priority": (headers(flags=4 | 0x20, payload=b"1234"), Code.FRAME_SIZE_ERROR),
    "HEADERS interrupted": (headers(flags=0) + data(), Code.PROTOCOL_ERROR),
    "HEADERS interrupted by another": (headers(1, 0) + headers(3), Code.PROTOCOL_ERROR),
    "HEADERS interrupted by an unknown frame": (headers(flags=0) + frame.frame(99, 0, 0), Code.PROTOCOL_ERROR),
    "CONTINUATION of another stream": (headers(flags=0) + frame.frame(9, 4, 3), Code.PROTOCOL_ERROR),
    "CONTINUATION of nothing": (headers() + frame.frame(9, 4, 1), Code.PROTOCOL_ERROR),
    "CONTINUATION without end": (headers(flags=0) + frame.frame(9, 0, 1) * 100, Code.ENHANCE_YOUR_CALM),
    "a header block too large": (
        headers(flags=0) + frame.frame(9, 0, 1, bytes(16_000)) * 5,
        Code.ENHANCE_YOUR_CALM,
    ),
    "a header list too large": (headers(payload=block(*[("x", "a" * 4000)] * 20)), Code.ENHANCE_YOUR_CALM),
    "a bad header block": (headers(payload=b"\xff\xff\xff\xff\xff\xff"), Code.COMPRESSION_ERROR),
    "a table too large": (headers(payload=b"\x3f\xff\xff\xff\x0f"), Code.COMPRESSION_ERROR),
    "index 0": (headers(payload=b"\x80"), Code.COMPRESSION_ERROR),
    "PRIORITY of the connection": (priority(0), Code.PROTOCOL_ERROR),
    "RST_STREAM of the connection": (frame.rst_stream(0, Code.CANCEL), Code.PROTOCOL_ERROR),
    "RST_STREAM of an idle stream": (frame.rst_stream(1, Code.CANCEL), Code.PROTOCOL_ERROR),
    "RST_STREAM of another size": (headers() + frame.frame(3, 0, 1, b"123"), Code.FRAME_SIZE_ERROR),
    "SETTINGS of a stream": (frame.frame(4, 0, 1), Code.PROTOCOL_ERROR),
    "SETTINGS of another size": (frame.frame(4, 0, 0, b"12345"), Code.FRAME_SIZE_ERROR),
    "an acknowledgement with settings": (frame.frame(4, 1, 0, b"123456"), Code.FRAME_SIZE_ERROR),
    "ENABLE_PUSH 2": (frame.settings({Setting.ENABLE_PUSH: 2}), Code.PROTOCOL_ERROR),
    "INITIAL_WINDOW_SIZE": (frame.settings({Setting.INITIAL_WINDOW_SIZE: 2**31}), Code.FLOW_CONTROL_ERROR),
    "MAX_FRAME_SIZE small": (frame.settings({Setting.MAX_FRAME_SIZE: 16_383}), Code.PROTOCOL_ERROR),
    "MAX_FRAME_SIZE large": (frame.settings({Setting.MAX_FRAME_SIZE: 2**24}), Code.PROTOCOL_ERROR),
    "PUSH_PROMISE": (headers() + frame.frame(5, 4, 1, bytes(4)), Code.PROTOCOL_ERROR),
    "PING of a stream": (frame.frame(6, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "PING of another size": (frame.frame(6, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "GOAWAY of a stream": (frame.frame(7, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "GOAWAY of another size": (frame.frame(7, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of another size": (frame.frame(8, 0, 0, bytes(3)), Code.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of nothing": (update(0, 0), Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE of an idle stream": (update(1, 1), Code.PROTOCOL_ERROR),
    "a connection's window too large": (update(0, 2**31 - 1), Code.FLOW_CONTROL_ERROR),
    "a window made too large by a setting": (
        headers() + update(1, 2**31 - 1 - 65_535) + frame.settings({Setting.INITIAL_WINDOW_SIZE: 65_536}),
        Code.FLOW_CONTROL_ERROR,
    ),
    "DATA after both ended": (headers(flags=END), Code.STREAM_CLOSED),
    "HEADERS after both ended": (headers(flags=END), Code.STREAM_CLOSED),
}


@pytest.mark.parametrize("split", [1 << 20, 1], ids=["whole", "bytes"])
@pytest.mark.parametrize("case", BROKEN_CONNECTIONS)
def test_what_breaks_the_connection(case: str, split: int) -> None:
    sent, code = BROKEN_CONNECTIONS[case]
    server = Server()
    pieces = [sent[at : at + split] for at in range(0, len(sent), split)]
    got = [each for piece in pieces for each in server.feed(piece).sent]
    if "both ended" in case:
        server.connection.end(server.connection.streams[1], b"\x88")
        got = server.feed(data() if "DATA" in case else headers()).sent
    server.sent = got
    assert server.connection.closed
    (said,) = server.codes(frame.GOAWAY)
    assert said == code
    assert server.feed(headers(7)).sent == [], "a closed connection takes nothing more"


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        frame.PREFACE[:-1] + b"x",
        frame.PREFACE + data(),
        frame.PREFACE + frame.frame(4, 1, 0),
    ],
)
@pytest.mark.parametrize("split", [1 << 20, 1])
def test_what_is_no_beginning(first: bytes, split: int) -> None:
    connection = Connection(lambda: 0.0)
    for at in range(0, len(first), split):
        connection.receive(first[at : at + split])
    assert connection.closed


BROKEN_STREAMS = {
    "DATA after the end": (headers(flags=END) + data(b"x"), Code.STREAM_CLOSED),
    "HEADERS after the end": (headers(flags=END) + headers(flags=END), Code.STREAM_CLOSED),
    "trailers without the end": (
        headers() + headers(payload=hpack.Encoder().encode([("x", "y")])),
        Code.PROTOCOL_ERROR,
    ),
    "pseudo-headers in trailers": (headers() + headers(flags=END), Code.PROTOCOL_ERROR),
    "more than the window": (headers() + data(bytes(16_384)) * 4, Code.FLOW_CONTROL_ERROR),
    "a window too large": (headers() + update(1, 2**31 - 1), Code.FLOW_CONTROL_ERROR),
    "WINDOW_UPDATE of nothing": (headers() + update(1, 0), Code.PROTOCOL_ERROR),
    "PRIORITY of another size": (headers() + priority(1, 4), Code.FRAME_SIZE_ERROR),
    "less than content-length": (
        headers(payload=block(("content-length", "5"))) + data(b"1234", flags=1),
        Code.PROTOCOL_ERROR,
    ),
    "more than content-length": (
        headers(payload=block(("content-length", "5"))) + data(b"123456", flags=1),
        Code.PROTOCOL_ERROR,
    ),
    "no body for content-length": (headers(flags=END, payload=block(("content-length", "5"))), Code.PROTOCOL_ERROR),
    "content-length no number": (headers(payload=block(("content-length", "-5"))), Code.PROTOCOL_ERROR),
    "an upper-case name": (headers(payload=block(("X", "y"))), Code.PROTOCOL_ERROR),
    "a name with a space": (headers(payload=block(("x y", "y"))), Code.PROTOCOL_ERROR),
    "a value with a line end": (headers(payload=block(("x", "y\nz"))), Code.PROTOCOL_ERROR),
    "a value with space around": (headers(payload=block(("x", " y"))), Code.PROTOCOL_ERROR),
    "connection": (headers(payload=block(("connection", "close"))), Code.PROTOCOL_ERROR),
    "te": (headers(payload=block(("te", "gzip"))), Code.PROTOCOL_ERROR),
    "an unknown pseudo-header": (headers(payload=block((":x", "y"))), Code.PROTOCOL_ERROR),
    "a pseudo-header twice": (
        headers(payload=hpack.Encoder().encode([(":method", "POST"), *HEADERS])),
        Code.PROTOCOL_ERROR,
    ),
    "a pseudo-header late": (
        headers(payload=block((":scheme", "http"), without=":scheme")),
        Code.PROTOCOL_ERROR,
    ),
    "no :method": (headers(payload=block(without=":method")), Code.PROTOCOL_ERROR),
    "no :path": (headers(payload=block(without=":path")), Code.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("case", BROKEN_STREAMS)
def test_what_breaks_a_stream(case: str) -> None:
    sent, code = BROKEN_STREAMS[case]
    server = Server().feed(sent)
    assert server.codes(frame.RST_STREAM) == [code]
    assert not server.connection.closed
    assert not server.connection.streams
    assert not any(isinstance(event, Data) and event.end for event in server.events[-1:])
    server.feed(headers(3))
    assert list(server.connection.streams) == [3], "the next one is served"


def test_what_is_ignored() -> None:
    ignored = [priority(1), priority(7), frame.frame(99, 255, 1, b"x"), frame.frame(7, 0, 0, bytes(8))]
    ignored += [frame.settings({}), frame.frame(4, 0, 0, struct.pack(">HI", 999, 1)), frame.frame(4, 1, 0)]
    server = Server().feed(*ignored, headers())
    assert not server.connection.closed
    assert [type(event) for event in server.events] == [Request]


def test_padding_and_priority_are_taken_off_and_padding_is_given_back() -> None:
    server = Server().feed(headers(flags=4 | 8 | 0x20, payload=b"\x03" + bytes(5) + block() + bytes(3)))
    server.feed(*[data(b"\xff" + b"body" + bytes(255), flags=frame.PADDED)] * 200)
    assert [event.payload for event in server.events if isinstance(event, Data)] == [b"body"] * 200
    assert server.connection.streams[1].credit > 65_535 - 200 * 4 - 65_535 // 2


def test_a_block_in_pieces() -> None:
    whole = block()
    server = Server().feed(
        headers(flags=1, payload=whole[:3]), frame.frame(9, 0, 1), frame.frame(9, 4, 1, whole[3:]), data(stream=0)
    )
    (request,) = server.events
    assert isinstance(request, Request)
    assert request.end
    assert request.fields.get(b":path") == b"/echo"


def test_trailers_end_a_request() -> None:
    server = Server().feed(headers(), headers(flags=END, payload=hpack.Encoder().encode([("x", "y")])))
    assert server.events[1:] == [Data(server.events[0].stream, b"", end=True)]


def test_pings_are_answered() -> None:
    assert Server().feed(frame.frame(6, 0, 0, b"12345678")).sent == [(frame.PING, frame.ACK, 0, b"12345678")]


def test_streams_beyond_the_limit_are_refused() -> None:
    server = Server()
    for stream in range(1, 2 * MAX_STREAMS, 2):
        server.feed(headers(stream))
    assert server.feed(headers(2 * MAX_STREAMS + 1)).codes(frame.RST_STREAM) == [Code.REFUSED_STREAM]
    server.feed(frame.rst_stream(1, Code.CANCEL))
    assert server.feed(headers(2 * MAX_STREAMS + 3)).sent == []


def test_streams_opened_and_reset_without_end() -> None:
    server = Server()
    stream = 1
    while not server.connection.closed:
        server.feed(headers(stream) + frame.rst_stream(stream, Code.CANCEL))
        stream += 2
        assert stream < 4 * BURST
    assert server.codes(frame.GOAWAY) == [Code.ENHANCE_YOUR_CALM]
    assert stream // 2 > BURST - 10


def test_a_steady_trickle_of_resets_is_fine() -> None:
    server = Server()
    for stream in range(1, 2 * BURST + 4001, 2):
        server.now_s += 1 / PER_SECOND
        server.feed(headers(stream) + frame.rst_stream(stream, Code.CANCEL))
    assert not server.connection.closed
    assert not server.connection.streams
    assert sum(isinstance(event, Reset) for event in server.events) > BURST


@pytest.mark.parametrize("idle", [data(), frame.frame(6, 0, 0, bytes(8)), frame.settings({}), priority(3)])
def test_floods_of_frames_that_do_nothing(idle: bytes) -> None:
    server = Server().feed(headers())
    for _ in range(12):
        server.feed(idle * 1000)
    assert server.connection.closed


class TestFlowControl:
    def test_the_connections_window_is_kept_open_in_batches(self) -> None:
        server = Server()
        updates = []
        for stream in range(1, 2 * (CONNECTION_WINDOW // 49_152) + 9, 2):
            server.feed(headers(stream) + data(bytes(16_384), stream) * 3)
            updates += [payload for kind, _, at, payload in server.sent if kind == frame.WINDOW_UPDATE and at == 0]
        assert len(updates) == 2

    def test_a_streams_window_opens_by_what_was_consumed(self) -> None:
        server = Server().feed(headers(), data(bytes(16_384)) * 3)
        stream = server.connection.streams[1]
        server.connection.consumed(stream, 30_000)
        assert server.feed().sent == []
        server.connection.consumed(stream, 10_000)
        assert server.feed().sent == [(frame.WINDOW_UPDATE, 0, 1, struct.pack(">I", 40_000))]
        assert stream.credit == 65_535 - 3 * 16_384 + 40_000

    def test_nothing_is_granted_to_who_has_ended(self) -> None:
        server = Server().feed(headers(), data(bytes(16_384)) * 3, data(flags=1))
        server.connection.consumed(server.connection.streams[1], 40_000)
        assert server.feed().sent == []

    def test_we_send_no_more_than_we_may(self) -> None:
        server = Server().feed(frame.settings({Setting.INITIAL_WINDOW_SIZE: 5}), headers(), headers(3))
        first, second = server.connection.streams[1], server.connection.streams[3]
        server.connection.sender.data(first, b"0123456789")
        server.connection.sender.data(first, b"ab")
        assert server.feed().sent == [(frame.DATA, 0, 1, b"01234")]
        server.connection.sender.data(second, b"free")
        assert server.feed().sent == [(frame.DATA, 0, 3, b"free")]
        assert server.feed(update(1, 6)).sent == [(frame.DATA, 0, 1, b"56789"), (frame.DATA, 0, 1, b"a")]
        assert server.feed(frame.settings({Setting.INITIAL_WINDOW_SIZE: 1})).sent[1:] == []
        assert server.feed(update(1, 4)).sent == []
        assert server.feed(update(1, 1)).sent == [(frame.DATA, 0, 1, b"b")]
        assert [type(event) for event in server.events[2:]] == [Writable]

    def test_the_connections_window_counts_too(self) -> None:
        server = Server().feed(frame.settings({Setting.INITIAL_WINDOW_SIZE: 2**20}), headers(), headers(3))
        for stream in server.connection.streams.values():
            server.connection.sender.data(stream, bytes(50_000))
        sent = server.feed().sent
        assert sum(len(payload) for _, _, _, payload in sent) == 65_535
        assert max(len(payload) for _, _, _, payload in sent) <= 16_384
        sent = server.feed(update(0, 100_000)).sent
        assert sum(len(payload) for _, _, _, payload in sent) == 34_465
        assert {stream for _, _, stream, _ in sent} == {3}

    def test_the_end_waits_behind_the_data(self) -> None:
        server = Server().feed(frame.settings({Setting.INITIAL_WINDOW_SIZE: 0}), headers())
        stream = server.connection.streams[1]
        server.connection.sender.headers(stream, b"\x88")
        server.connection.sender.data(stream, b"body")
        server.connection.end(stream, b"\x88")
        assert [kind for kind, *_ in server.feed().sent] == [frame.HEADERS]
        sent = server.feed(update(1, 9)).sent
        assert [(kind, flags) for kind, flags, *_ in sent[:2]] == [(frame.DATA, 0), (frame.HEADERS, END)]
        assert server.codes(frame.RST_STREAM) == [Code.NO_ERROR], "the peer has not ended: it need not go on"
        assert not server.connection.streams

    def test_larger_frames_when_the_peer_takes_them(self) -> None:
        values = {Setting.MAX_FRAME_SIZE: 50_000, Setting.INITIAL_WINDOW_SIZE: 2**20}
        server = Server().feed(frame.settings(values), headers())
        server.connection.sender.data(server.connection.streams[1], bytes(60_000))
        assert [len(payload) for _, _, _, payload in server.feed().sent] == [50_000, 10_000]


class TestDraining:
    def test_new_streams_are_taken_until_the_peer_has_heard(self) -> None:
        server = Server().feed(headers())
        server.connection.drain()
        (kind, _, _, payload), (ping, _, _, mark) = server.feed(headers(3)).sent
        assert (kind, payload) == (frame.GOAWAY, struct.pack(">II", 2**31 - 1, 0))
        assert ping == frame.PING
        server.feed(frame.frame(6, 1, 0, mark))
        assert server.sent == [(frame.GOAWAY, 0, 0, struct.pack(">II", 3, 0))]
        server.feed(headers(5) + data(b"x", 5) + frame.rst_stream(5, Code.CANCEL) + update(5, 1))
        assert list(server.connection.streams) == [1, 3]
        assert not server.connection.closed
        for stream in list(server.connection.streams.values()):
            assert not server.connection.drained
            server.connection.end(stream, b"\x88")
        assert server.connection.drained

    def test_an_idle_connection_is_drained_once_the_peer_has_heard(self) -> None:
        server = Server()
        server.connection.drain()
        mark = server.feed().sent[1][3]
        assert not server.connection.drained
        server.feed(frame.frame(6, 1, 0, mark))
        assert server.connection.drained
