"""A provider that reads nothing: counts a request's bytes, says the same to all. Run: `python -m bench.sink PORT`.

For what is asked with 10 MiB, which the demo provider reads, counts and parses for longer than the gateway does.
"""

import asyncio
import re
import sys
from typing import cast

import msgspec
import uvloop

from bench.stack import HOST

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MESSAGE = {"role": "assistant", "content": "Read."}
_ANSWER = {
    "id": "chatcmpl-sink",
    "object": "chat.completion",
    "created": 1_800_000_000,
    "model": "sink",
    "choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 2_500_000, "completion_tokens": 1, "total_tokens": 2_500_001},
}


class Sink(asyncio.Protocol):
    """A connection: one request after the other, each with a content-length."""

    def __init__(self) -> None:
        body = msgspec.json.encode(_ANSWER)
        self._answer = (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        self._head = b""
        self._left = 0  # of the body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._left:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            found = _LENGTH.search(self._head[: end + 2])
            self._left = int(found[1]) if found else 0
            data, self._head = self._head[end + 4 :], b""
        self._left -= len(data)
        if self._left <= 0:
            self._left = 0
            self._transport.write(self._answer)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Sink, HOST, port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
