"""One small HTTP/1.1 request over TCP or a unix socket: for the supervisor's probes and Envoy's admin interface.

In: where, method, path. Out: status and body text. Not for serving or for anything large.
"""

import asyncio
from pathlib import Path

_TIMEOUT_S = 5.0
_MAX_ANSWER_BYTES = 1024 * 1024

Address = Path | tuple[str, int]


async def ask(address: Address, path: str, method: str = "GET") -> tuple[int, str]:
    """Status and body (transfer framing included, if chunked). Raises OSError, TimeoutError."""
    async with asyncio.timeout(_TIMEOUT_S):
        if isinstance(address, Path):
            reader, writer = await asyncio.open_unix_connection(str(address))
        else:
            reader, writer = await asyncio.open_connection(*address)
        try:
            head = f"{method} {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            writer.write(head.encode())
            answer = b""
            while len(answer) < _MAX_ANSWER_BYTES and (data := await reader.read(65536)):
                answer += data
        finally:
            writer.close()
    status_line, _, rest = answer.decode(errors="replace").partition("\r\n")
    parts = status_line.split(" ")
    if len(parts) < 2 or not parts[1].isdigit():
        raise ConnectionError("no HTTP answer")
    return int(parts[1]), rest.partition("\r\n\r\n")[2]
