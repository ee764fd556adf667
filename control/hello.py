"""Whether a process of ours serves: it answers a few bytes on its unix socket.

In: the socket's path. Out: yes or no. Called until the gateway is ready, and ever after for processes that may hang.
"""

import asyncio
from pathlib import Path

# The client's preface and an empty SETTINGS frame; a server answers with its own SETTINGS (RFC 9113, 3.4).
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS_FRAME = 4
_HTTP1 = b"GET /healthz HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n"
_SOON_S = 1.0


async def speaks_http2(path: Path, within_s: float = _SOON_S) -> bool:
    """As a worker and the settler do. Raises OSError (FileNotFoundError and ConnectionRefusedError where nobody
    listens), TimeoutError."""
    frame = await exchange(path, _HTTP2, 9, within_s)
    return len(frame) == 9 and frame[3] == _SETTINGS_FRAME


async def is_healthy(path: Path, within_s: float = _SOON_S) -> bool:
    """As control is: 200 for /healthz. Raises the same."""
    return (await exchange(path, _HTTP1, 12, within_s)).endswith(b" 200")


async def exchange(path: Path, data: bytes, answer_bytes: int, within_s: float = _SOON_S) -> bytes:
    """The first bytes of what is answered to `data`; fewer if it ends early. Raises OSError, TimeoutError."""
    async with asyncio.timeout(within_s):
        reader, writer = await asyncio.open_unix_connection(str(path))
        try:
            writer.write(data)
            return await reader.readexactly(answer_bytes)
        except asyncio.IncompleteReadError as error:
            return error.partial
        finally:
            writer.close()
