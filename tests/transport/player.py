"""Plays any bytes to the transport and holds what must be true of it: the subject of the fuzzers.

In: bytes, read as a script: frames of any kind, flags, stream and content, in any order, cut anywhere, with tasks that
end and time that passes in between. Out: nothing; an assertion that fails, or an exception, is a finding.
"""

import struct
from collections.abc import Iterator
from itertools import pairwise

import hpack

from extproc.transport import frame
from extproc.transport.calls import Call, Calls
from extproc.transport.connection import Connection
from extproc.transport.credit import Budget
from extproc.transport.session import Service
from tests.transport.peer import HEADERS, Scheduler, Session

LIMIT = 100_000
BUDGET = 250_000
_BLOCKS: tuple[bytes, ...] = ()


class Script:
    """Bytes as numbers and pieces; zeros and nothing once they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, below: int) -> int:
        piece = self.piece(1 if below <= 256 else 4)
        return int.from_bytes(piece, "big") % below

    def piece(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        self._at += size
        return piece


def play(data: bytes) -> None:
    """Play `data`. Raises AssertionError, or whatever the transport let escape."""
    script = Script(data)
    scheduler, log, sessions = Scheduler(), [], []
    now = [0.0]

    def session(*, waits: bool) -> Session:
        sessions.append(Session(log, waits=waits))
        return sessions[-1]

    services = {
        "/echo": Service(lambda: session(waits=False), LIMIT),
        "/wait": Service(lambda: session(waits=True), LIMIT),
    }
    connection, budget = Connection(lambda: now[0]), Budget(BUDGET)
    calls = Calls(connection, services, scheduler, budget)
    out = b""
    for piece in _pieces(script, hpack.Encoder()):
        calls.receive(piece)
        out += b"".join(connection.sender.take())
        _held(connection)
        if script.number(4) == 0 and scheduler.spawned:
            scheduler.spawned.pop(0).resume()
        if script.number(16) == 0:
            now[0] += script.number(100)
            for timer in scheduler.timers:
                if not timer.cancelled:
                    timer.action()
        if connection.closed:
            break
    _frames(out + b"".join(connection.sender.take()))
    calls.abandon()
    assert all(session.closed == 1 for session in sessions), "each session is closed, once"
    assert budget._left == BUDGET, "what was lent came back"
    assert len(calls) == 0


def _pieces(script: Script, encoder: hpack.Encoder) -> Iterator[bytes]:
    """What the peer sends: mostly what begins well, then anything, cut anywhere."""
    whole = b"" if script.number(32) == 0 else frame.PREFACE + frame.frame(frame.SETTINGS, 0, 0)
    while script:
        for _ in range(script.number(8) + 1):
            whole += _frame(script, encoder)
        cuts = sorted({0, len(whole), *(script.number(len(whole) + 1) for _ in range(script.number(4)))})
        for start, end in pairwise(cuts):
            yield whole[start:end]
        whole = b""


def _frame(script: Script, encoder: hpack.Encoder) -> bytes:
    choice, stream = script.number(16), script.number(12)
    if choice < 5:
        return _call(script, encoder, stream | 1)
    if choice < 8:
        body = struct.pack(">BI", 0, script.number(40)) + script.piece(script.number(48))
        return frame.frame(frame.DATA, script.number(2), stream | 1, body * (script.number(64) + 1))
    if choice == 8:
        return frame.window_update(stream * script.number(2), script.number(2**31))
    if choice == 9:
        return frame.rst_stream(stream | 1, frame.Code.CANCEL)
    if choice == 10:
        values = {frame.Setting(script.number(6) + 1): script.number(2**17) for _ in range(script.number(4))}
        return frame.settings(values)
    if choice == 11:
        body = struct.pack(">BI", 0, script.number(2 * LIMIT))
        return frame.frame(frame.DATA, 0, stream | 1, body) + frame.frame(frame.DATA, 0, stream | 1, bytes(16_000)) * 8
    if choice == 12:
        return script.piece(script.number(256))
    return frame.frame(script.number(11), script.number(256), stream, script.piece(script.number(64)))


def _call(script: Script, encoder: hpack.Encoder, stream: int) -> bytes:
    """HEADERS, mostly of a good call, perhaps with CONTINUATION, padding and priority."""
    path = ("/echo", "/wait", "/no")[script.number(3)]
    fields = [(name, path if name == ":path" else value) for name, value in HEADERS]
    extra = script.number(8)
    if extra < 2:
        fields.append(("grpc-timeout", ("1S", "x")[extra]))
    elif extra == 2:
        fields.append((script.piece(3).decode("latin-1"), script.piece(5).decode("latin-1")))
    elif extra == 3:
        fields.pop(script.number(len(fields)))
    elif extra == 4:
        fields.append(("content-length", str(script.number(300))))
    block = encoder.encode(fields)
    flags = script.number(2) | (frame.PADDED if (padded := script.number(8) == 0) else 0)
    flags |= frame.WITH_PRIORITY if (priority := script.number(8) == 0) else 0
    head = (b"\x03" if padded else b"") + (bytes(5) if priority else b"")
    tail = bytes(3) if padded else b""
    if script.number(4):
        return frame.frame(frame.HEADERS, flags | frame.END_HEADERS, stream, head + block + tail)
    cut = script.number(len(block) + 1)
    return frame.frame(frame.HEADERS, flags, stream, head + block[:cut] + tail) + frame.frame(
        frame.CONTINUATION, frame.END_HEADERS, stream, block[cut:]
    )


def _held(connection: Connection) -> None:
    """What the peer can make us keep."""
    held = len(connection._reader._rest)
    for stream in connection.streams.values():
        call: Call | None = stream.call
        if call is not None:
            held += sum(map(len, call.backlog)) + sum(map(len, call.reader._parts))
            assert len(call.backlog) <= frame.DEFAULT_WINDOW // 5 + BUDGET
    bound = frame.FRAME_BYTES + 9 + len(connection.streams) * frame.DEFAULT_WINDOW + BUDGET
    assert held <= bound, f"{held} bytes are held, {bound} at most"
    assert len(connection._recent) <= 1024


def _frames(data: bytes) -> None:
    """What we send is frames, of sizes that any peer takes."""
    at = 0
    while at < len(data):
        word, _, _ = frame.HEADER.unpack_from(data, at)
        assert word >> 8 <= 2**24 - 1
        assert word & 0xFF in (
            frame.DATA,
            frame.HEADERS,
            frame.RST_STREAM,
            frame.SETTINGS,
            frame.PING,
            frame.GOAWAY,
            frame.WINDOW_UPDATE,
        )
        at += frame.HEADER_BYTES + (word >> 8)
    assert at == len(data)
