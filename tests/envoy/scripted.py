"""A provider that says what a test tells it to, byte for byte, and that can close a connection at a bad moment.

In: requests, from any number of connections. Out: the steps of `script`, which a test sets, for each of them.
"""

import contextlib
import json
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

CLOSE, RESET = "close", "reset"
Step = bytes | float | str  # sent; waited, in seconds; CLOSE or RESET


class Call(NamedTuple):
    """One request as it came."""

    path: str
    headers: dict[str, str]  # lower case
    body: Any  # None: it was not read yet
    nth: int  # on its connection, from 0


Script = Callable[[Call], Iterable[Step]]


class Scripted:
    """The provider. `calls`: what it was asked since `script` was set."""

    def __init__(self) -> None:
        provider = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError, ValueError):
                    provider._serve(self)

        self.calls: list[Call] = []
        self._script: Script = lambda call: []
        self._early = False
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def says(self, *steps: Step, early: bool = False) -> None:
        """The same steps for every request; `early`: before its body is read."""
        self.does(lambda call: steps)
        self._early = early

    def does(self, script: Script) -> None:
        """What to do for each request."""
        self.calls, self._script, self._early = [], script, False

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: socketserver.StreamRequestHandler) -> None:
        nth = 0
        while line := handler.rfile.readline():
            headers = dict(_header_lines(handler.rfile))
            length, early = int(headers["content-length"]), self._early
            body = None if early else json.loads(handler.rfile.read(length))
            call = Call(line.split()[1].decode(), headers, body, nth)
            self.calls.append(call)
            for step in self._script(call):
                if not _play(handler, step):
                    return
            if early:
                handler.rfile.read(length)
            nth += 1


def _play(handler: socketserver.StreamRequestHandler, step: Step) -> bool:
    """Whether the connection is still there."""
    if isinstance(step, bytes):
        handler.wfile.write(step)
    elif isinstance(step, float):
        time.sleep(step)
    else:
        if step == RESET:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        return False
    return True


def _header_lines(lines: Iterable[bytes]) -> Iterable[tuple[str, str]]:
    for line in lines:
        if line == b"\r\n":
            return
        name, _, value = line.decode("latin-1").partition(":")
        yield name.strip().lower(), value.strip()


def whole(body: bytes, *, status: int = 200, **headers: str) -> bytes:
    """An answer with a content-length."""
    known = {"content-type": "application/json", "content-length": str(len(body))}
    return _head(status, known | _named(headers)) + body


def stream(*pieces: bytes, **headers: str) -> list[bytes]:
    """An event stream in chunks, ended; without the last element it is not."""
    head = _head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked", **_named(headers)})
    return [head, *(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n\r\n"]


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def event(data: Any, name: str | None = None) -> bytes:
    """One event of a stream."""
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()
