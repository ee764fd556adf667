"""A client's socket to the simulator, and what is read from it byte by byte."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from control.demo.server import DemoProvider

PATIENCE_S = 10  # how long a test waits for what must come
PATHS = {
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/messages",
    "google": "/v1beta/models/m:streamGenerateContent?alt=sse",
}


END = {"openai": b"data: [DONE]\n\n", "anthropic": b"message_stop", "google": b'"finishReason"'}
FORMATS = list(PATHS)


def body_of(fmt: str, text: str, *, stream: bool = True, model: str = "m") -> dict[str, Any]:
    if fmt == "google":
        return {"contents": [{"role": "user", "parts": [{"text": text}]}]}
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream}
    return body | ({"max_tokens": 1000} if fmt == "anthropic" else {})


class Wire:
    """A raw connection that notes what came, and how it ended."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, fmt: str, text: str, *, stream: bool = True) -> None:
        body = json.dumps(body_of(fmt, text, stream=stream)).encode()
        path = PATHS[fmt] if stream else PATHS[fmt].replace("streamGenerate", "generate")
        self.writer.write(self.head(path, len(body)) + body)

    @staticmethod
    def head(path: str, length: int, extra: str = "") -> bytes:
        lines = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\nanthropic-version: 2023-06-01\r\ncontent-length: {length}\r\n{extra}"
        )
        return f"{lines}\r\n".encode()

    async def until(self, end: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(end), PATIENCE_S)

    async def rest(self) -> tuple[bytes, str]:
        """Everything until the end, and which end: fin or reset."""
        got = b""
        try:
            while data := await asyncio.wait_for(self.reader.read(65536), PATIENCE_S):
                got += data
        except ConnectionResetError:
            return got, "reset"
        return got, "fin"


@pytest.fixture
async def wire(demo: DemoProvider) -> AsyncIterator[Wire]:
    host, _, port = demo.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 26)
    yield Wire(reader, writer)
    writer.close()


async def ask(http: httpx.AsyncClient, fmt: str, text: str, *, stream: bool = True) -> httpx.Response:
    path = PATHS[fmt] if stream else PATHS[fmt].replace("streamGenerate", "generate")
    return await http.post(path, json=body_of(fmt, text, stream=stream), headers={"anthropic-version": "2023-06-01"})
