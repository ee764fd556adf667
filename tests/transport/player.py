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
from extproc.transport.sending import TURN_BYTES
from extproc.transport.session import Service
from tests.transport.peer import HEADERS, Scheduler, Session

LIMIT = 100_000
BUDGET = 250_000


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
    connection.sender.turn_bytes = (200, TURN_BYTES)[script.number(2)]
    out = b""
    for piece in Peer(script).pieces():
        calls.receive(piece)
        out += b"".join(connection.sender.take())
        if connection.sender.waiting and script.number(4):
            calls.go_on()
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


class Peer:
    """What the peer sends: a good client for the most part, and now and then anything at all."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._encoder = hpack.Encoder()
        self._next = 1
        self._open: list[int] = []

    def pieces(self) -> Iterator[bytes]:
        """Frames, cut anywhere."""
        script = self._script
        whole = b"" if script.number(200) == 0 else frame.PREFACE + frame.settings({}) + self._call()
        while script:
            for _ in range(script.number(8) + 1):
                whole += self._frame()
            cuts = sorted({0, len(whole), *(script.number(len(whole) + 1) for _ in range(script.number(4)))})
            for start, end in pairwise(cuts):
                yield whole[start:end]
            whole = b""

    def _frame(self) -> bytes:
        script, choice = self._script, self._script.number(256)
        if choice < 90:
            return self._call()
        stream = self._open[script.number(len(self._open))] if self._open else max(1, self._next - 2)
        if choice < 180:
            return self._messages(stream)
        if choice < 200:
            return frame.window_update(stream * script.number(2), script.number(70_000) + 1)
        if choice < 210:
            self._ended(stream, True)
            return frame.rst_stream(stream, frame.Code.CANCEL)
        if choice < 222:
            return self._settings()
        if choice < 232:  # more than a window
            announced = struct.pack(">BI", 0, script.number(2 * LIMIT))
            return frame.frame(frame.DATA, 0, stream, announced) + frame.frame(frame.DATA, 0, stream, bytes(15_000)) * 8
        if choice < 244:
            return frame.frame(frame.PING, script.number(2), 0, b"draining")
        if choice < 254:
            return frame.frame(frame.PRIORITY, 0, stream, bytes(5))
        return self._anything()

    def _anything(self) -> bytes:
        script = self._script
        if script.number(4) == 0:
            return script.piece(script.number(256))
        return frame.frame(script.number(11), script.number(256), script.number(12), script.piece(script.number(64)))

    def _settings(self) -> bytes:
        values = {frame.Setting.INITIAL_WINDOW_SIZE: self._script.number(2**17)}
        if self._script.number(8) == 0:
            values[frame.Setting(self._script.number(6) + 1)] = self._script.number(2**17)
        return frame.settings(values)

    def _messages(self, stream: int) -> bytes:
        script = self._script
        said = (b"last", b"silent", b"raise", b"raise later")
        which = script.number(16)
        message = said[which] if which < len(said) else script.piece(script.number(48))
        body = struct.pack(">BI", script.number(64) == 1, len(message)) + message
        body = (body * (script.number(64) + 1))[: -script.number(3) or None]
        flags = script.number(8) == 0
        self._ended(stream, flags)
        if script.number(8) == 0:
            return frame.frame(frame.DATA, flags | frame.PADDED, stream, b"\x07" + body + bytes(7))
        return frame.frame(frame.DATA, flags, stream, body)

    def _call(self) -> bytes:
        """HEADERS, mostly of a good call, perhaps with CONTINUATION, padding and priority."""
        script = self._script
        block = self._encoder.encode(self._fields())
        stream = self._next
        if self._open and script.number(128) == 0:
            stream = self._open[script.number(len(self._open))]
        self._open = [*self._open[-6:], stream]
        self._next = max(self._next, stream + 2)
        flags = script.number(16) == 0
        self._ended(stream, flags)
        head = tail = b""
        if script.number(8) == 0:
            flags, head, tail = flags | frame.PADDED, b"\x03", bytes(3)
        if script.number(8) == 0:
            flags, head = flags | frame.WITH_PRIORITY, head + bytes(5)
        if script.number(4):
            return frame.frame(frame.HEADERS, flags | frame.END_HEADERS, stream, head + block + tail)
        cut = script.number(len(block) + 1)
        rest = frame.frame(frame.CONTINUATION, frame.END_HEADERS, stream, block[cut:])
        return frame.frame(frame.HEADERS, flags, stream, head + block[:cut] + tail) + rest

    def _ended(self, stream: int, ended: bool) -> None:
        """Mostly, a client says nothing more on it."""
        if ended and self._script.number(64):
            self._open = [each for each in self._open if each != stream]

    def _fields(self) -> list[tuple[str, str]]:
        script, extra = self._script, self._script.number(32)
        path = ("/echo", "/wait", "/no")[script.number(32) % 3 if script.number(8) == 0 else script.number(2)]
        fields = [(name, path if name == ":path" else value) for name, value in HEADERS]
        if extra < 2:
            fields.append(("grpc-timeout", ("1S", "x")[extra]))
        elif extra == 2:
            fields.append((script.piece(3).decode("latin-1"), script.piece(5).decode("latin-1")))
        elif extra == 3:
            fields.pop(script.number(len(fields)))
        elif extra == 4:
            fields.append(("content-length", str(script.number(300))))
        return fields


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
