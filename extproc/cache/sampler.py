"""Asks the provider although a similar request's answer was given, so that the two can be compared.

In: the client's request, as it came. Out: the same request once more, through this gateway's own front door: it is
authenticated, held, charged and written down as a request of its own, of low priority, and its answer is kept for
`checks` to find. Budgeted: so many a minute, one at a time; what comes too soon is left out. The client's key is held
in memory only while its request waits here.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from extproc.settings import Semantic
from extproc.telemetry.trace_context import ids
from extproc.wire import H_REQUEST_ID

log = logging.getLogger(__name__)

USER_AGENT = "gateway-cache-check"
_WAITING = 8
_TIMEOUT_S = 120.0
_PATH = "/v1/chat/completions"


class Sampler:
    """Bound to the gateway's own entrance, a unix socket. `settings`: those of now."""

    def __init__(self, door: Path, settings: Callable[[], Semantic], now_s: Callable[[], float] = time.monotonic):
        self._door = str(door)
        self._settings = settings
        self._now_s = now_s
        self._queue: asyncio.Queue[tuple[bytes, dict[str, str]]] = asyncio.Queue(_WAITING)
        self._minute, self._asked = 0, 0

    def ask(self, headers: Mapping[str, str], body: bytes) -> bool:
        """Ask soon; whether it will be."""
        if not self._in_budget():
            return False
        try:
            whose = ids(headers.get(H_REQUEST_ID, ""), headers.get("traceparent"))
            self._queue.put_nowait((_request(headers, body), whose))
        except asyncio.QueueFull:
            return False
        self._asked += 1
        return True

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            request, whose = await self._queue.get()
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    status = await self._send(request)
                if status != 200:
                    log.info("check of a semantic hit refused", extra={"status": status, **whose})
            except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
                log.info("check of a semantic hit failed", extra={"reason": type(error).__name__} | whose)

    def _in_budget(self) -> bool:
        minute = int(self._now_s() // 60)
        if minute != self._minute:
            self._minute, self._asked = minute, 0
        return self._asked < self._settings().samples_per_minute

    async def _send(self, request: bytes) -> int:
        """The status; the rest is read to its end, since a client that leaves is an aborted request."""
        reader, writer = await asyncio.open_unix_connection(self._door)
        try:
            writer.write(request)
            await writer.drain()
            status = _status(await reader.readline())
            while await reader.read(65536):
                pass
            return status
        finally:
            writer.close()


def _status(line: bytes) -> int:
    """Of `HTTP/1.1 200 OK`. Raises ValueError."""
    _, _, rest = line.partition(b" ")
    return int(rest[:3])


def _request(headers: Mapping[str, str], body: bytes) -> bytes:
    """HTTP/1.1, whole answer, connection closed after it."""
    asked: dict[str, Any] = msgspec.json.decode(body)
    asked.pop("stream_options", None)
    asked |= {"stream": False, "metadata": {**(asked.get("metadata") or {}), "priority": "low"}}
    data = msgspec.json.encode(asked)
    lines = [
        f"POST {_PATH} HTTP/1.1",
        "host: gateway",
        f"user-agent: {USER_AGENT}",
        "content-type: application/json",
        "cache-control: no-cache",
        "connection: close",
        f"content-length: {len(data)}",
        f"authorization: {headers.get('authorization', '')}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data
