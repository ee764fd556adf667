"""An HTTPS provider of HTTP/2 that goes away under every second request of a connection, as a proxy that restarts does.

In: chat requests. Out: an answer to the first of each connection, of a stream its headers alone; to the next a GOAWAY
that names it as not read.
"""

import json
import socket
import ssl
import threading
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded

_ANSWER = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


class GoesAway:
    """The provider. `refused`: requests that were answered with GOAWAY."""

    def __init__(self, pem: Path) -> None:
        self.refused = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pem, pem.with_suffix(".key"))
        self._context.set_alpn_protocols(["h2"])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        try:
            with self._context.wrap_socket(plain, server_side=True) as connection:
                self._speak(connection)
        except OSError:
            return

    def _speak(self, connection: ssl.SSLSocket) -> None:
        http = H2Connection(H2Configuration(client_side=False))
        http.initiate_connection()
        connection.sendall(http.data_to_send())
        answered, asked = 0, b""
        while data := connection.recv(65536):
            for event in http.receive_data(data):
                if isinstance(event, DataReceived):
                    asked += event.data
                    http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if isinstance(event, StreamEnded):
                    if answered:
                        self.refused += 1
                        http.close_connection(last_stream_id=answered)
                        connection.sendall(http.data_to_send())
                        return
                    answered = event.stream_id
                    if json.loads(asked).get("stream"):
                        head = [(":status", "200"), ("content-type", "text/event-stream")]
                        http.send_headers(answered, head, end_stream=True)
                        continue
                    http.send_headers(answered, [(":status", "200"), ("content-type", "application/json")])
                    http.send_data(answered, json.dumps(_ANSWER).encode(), end_stream=True)
            connection.sendall(http.data_to_send())
