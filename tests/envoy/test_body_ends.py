"""How a request's body ends over HTTP/2: with its last piece, with a word of its own, with trailers."""

import json
import socket
import time
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from tests.envoy.harness import Gateway, Simulator, ask, bearer

MODELS = pytest.mark.parametrize("model", ["gpt", "claude"])  # passes by Envoy alone; does not
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


class Client:
    """One request on one connection. `told`: with its length."""

    def __init__(self, gateway: Gateway, body: bytes, *, told: bool = True) -> None:
        self._socket = socket.create_connection(("127.0.0.1", gateway.port), timeout=30)
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._http.initiate_connection()
        headers = {":method": "POST", ":path": "/v1/chat/completions", ":scheme": "http", ":authority": "gateway"}
        headers |= {"content-type": "application/json"} | ({"content-length": str(len(body))} if told else {})
        self._http.send_headers(1, list((headers | bearer()).items()))
        self.say(body)

    def say(self, piece: bytes) -> None:
        self._http.send_data(1, piece)

    def flush(self) -> None:
        self._socket.sendall(self._http.data_to_send())

    def end(self, trailers: dict[str, str] | None = None) -> None:
        """Say that nothing follows; only `flush` sends it."""
        if trailers is None:
            self._http.end_stream(1)
        else:
            self._http.send_headers(1, list(trailers.items()), end_stream=True)

    def answer(self) -> tuple[int, bytes]:
        status, body = 0, b""
        with self._socket:
            while True:
                self.flush()
                for event in self._http.receive_data(self._socket.recv(65536)):
                    if isinstance(event, h2.events.ResponseReceived):
                        status = int(dict(event.headers)[":status"])
                    elif isinstance(event, h2.events.DataReceived):
                        body += event.data
                    elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                        return status, body


def asked(model: str, stream: bool) -> bytes:
    options: dict[str, Any] = {"stream": stream}
    return json.dumps(ask("hi", model, **options)).encode()


@MODELS
@STREAMED
@pytest.mark.parametrize("told", [True, False], ids=["length told", "not told"])
def test_trailers_hang_nobody(gateway: Gateway, model: str, stream: bool, told: bool) -> None:
    client = Client(gateway, asked(model, stream), told=told)
    client.end({"x-checksum": "abc"})
    status, body = client.answer()
    assert status == 200
    assert (b"data: [DONE]" in body) == stream


@MODELS
@STREAMED
@pytest.mark.parametrize("told", [True, False], ids=["length told", "not told"])
@pytest.mark.parametrize("after_s", [0, 0.001, 0.01], ids=["at once", "while it is decided", "later"])
def test_an_end_that_comes_by_itself(gateway: Gateway, model: str, stream: bool, after_s: float, told: bool) -> None:
    client = Client(gateway, asked(model, stream), told=told)
    if after_s:
        client.flush()
        time.sleep(after_s)
    client.end()
    assert client.answer()[0] == 200


@MODELS
@pytest.mark.parametrize("after_s", [0, 0.01], ids=["at once", "later"])
def test_what_follows_an_object_reaches_no_provider(
    gateway: Gateway, primary: Simulator, model: str, after_s: float
) -> None:
    """It may have been decided by then; told at once, it is refused."""
    client = Client(gateway, asked(model, stream=False), told=False)
    if after_s:
        client.flush()
        time.sleep(after_s)
    client.say(b', "n": 2}')
    client.end()
    status, _ = client.answer()
    assert status in (200, 400)
    assert [each["status"] for each in primary.recent()] == ([200] if status == 200 else [])


def test_an_object_that_comes_in_pieces_ends_with_its_last(gateway: Gateway) -> None:
    body = asked("gpt", stream=False)
    client = Client(gateway, body[: body.index(b"}") + 1], told=False)
    client.flush()
    time.sleep(0.01)
    client.say(body[body.index(b"}") + 1 :])
    client.end({"x-checksum": "abc"})
    assert client.answer()[0] == 200
