"""Mixed requests, many at once, against one gateway: what clients send, do and see.

In: how many, and a gateway's address. Out: one `Seen` a request. Kinds and their shares are KINDS; in which order they
come is random, and the same every time.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any, Final

import aiohttp
import msgspec

from extproc.records import Status
from tests.envoy.harness import ask, bearer, marker

AT_ONCE: Final = 24
_READ_BEFORE_LEAVING: Final = 12  # events of a stream
_SILENT_S: Final = 1.0  # until a client leaves that got nothing; below the first byte's deadline
_LONG: Final = {"chunks": 100, "chunk_interval_ms": 20, "huge": 6600}


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One way a request goes. `status`: what its audit row may say; empty: it has none."""

    share: int
    team: str = "alpha"
    body: Callable[[int], dict[str, Any] | bytes]
    http: tuple[int | None, ...] = (200,)  # what the client may see; None: it leaves before it knows
    status: tuple[Status, ...] = ("success",)
    leaves: str = ""  # "silent": before the first byte; "midway": in the middle of a stream


class Seen(msgspec.Struct, frozen=True):
    """What a client saw of one request."""

    kind: str
    http: int | None
    request_id: str | None


def _question(model: str, **more: Any) -> Callable[[int], dict[str, Any]]:
    stream = {"stream": True} if more.pop("stream", False) else {}
    faults = more.pop("faults", {"chunks": 4} if stream else {})
    return lambda number: ask(f"Question {number} {marker(**faults)}", model, **stream, **more)


KINDS: Final = {
    "whole": Kind(share=18, body=_question("gpt")),
    "stream": Kind(share=16, body=_question("gpt", stream=True)),
    "translated": Kind(share=8, team="beta", body=_question("claude")),
    "translated stream": Kind(share=8, team="beta", body=_question("gemini", stream=True)),
    "cached": Kind(share=12, team="beta", body=lambda number: ask(f"A common question {number % 17}", "gpt")),
    "failover": Kind(
        share=4, status=("fallback",), body=_question("gpt-ha", faults={"fail_provider": "openai", "status": 503})
    ),
    "provider's 500": Kind(share=3, http=(502,), status=("failed",), body=_question("claude", faults={"status": 500})),
    "provider's 400": Kind(share=2, http=(400,), status=("failed",), body=_question("gpt", faults={"status": 400})),
    # Asked to wait, the gateway leaves a provider alone for a moment, and refuses by itself.
    "provider's 429": Kind(
        share=2, http=(429,), status=("failed", "refused"), body=_question("gpt-limited", faults={"status": 429})
    ),
    "learnt": Kind(share=4, body=_question("gpt-cut", stream=True, faults={"chunks": 20, "huge": 1320})),
    "left midway": Kind(
        share=2,
        status=("cancelled",),
        leaves="midway",
        body=_question("gpt-cut", stream=True, faults=_LONG | {"chunk_interval_ms": 60}),  # not over before it leaves
    ),
    "left early": Kind(
        share=2,
        http=(None,),
        status=("cancelled",),
        leaves="silent",
        body=_question("gpt-cut", faults={"first_byte_ms": 9000}),
    ),
    "reset midway": Kind(
        share=2,
        status=("failed",),
        body=_question("gpt-cut", stream=True, faults=_LONG | {"reset": "mid_stream"}),
    ),
    "no JSON": Kind(share=3, http=(400,), status=("refused",), body=lambda number: b'{"model": "gpt", '),
    "no such model": Kind(share=3, http=(404,), status=("refused",), body=_question("nothing")),
    "no such key": Kind(share=4, team="nobody", http=(401, 429), status=(), body=_question("gpt")),
    "too many": Kind(share=7, team="limited", http=(429,), status=("refused",), body=_question("gpt")),
}


def plan(count: int) -> list[str]:
    """`count` kinds, by their shares, in an order that is random and always the same."""
    total = sum(kind.share for kind in KINDS.values())
    kinds = [name for name, kind in KINDS.items() for _ in range(count * kind.share // total)]
    kinds += ["whole"] * (count - len(kinds))
    random.Random(1).shuffle(kinds)
    return kinds


async def send(url: str, kinds: list[str]) -> list[Seen]:
    """All of them, AT_ONCE at a time; what clients saw."""
    queue = iter(enumerate(kinds))
    seen: list[Seen] = []

    async def client(session: aiohttp.ClientSession) -> None:
        for number, kind in queue:
            seen.append(await _one(session, f"{url}/v1/chat/completions", kind, number))

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        await asyncio.gather(*(client(session) for _ in range(AT_ONCE)))
    return seen


async def _one(session: aiohttp.ClientSession, url: str, name: str, number: int) -> Seen:
    kind = KINDS[name]
    body = kind.body(number)
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    headers = bearer(f"sk-{kind.team}") | {"content-type": "application/json"}
    try:
        async with asyncio.timeout(_SILENT_S if kind.leaves == "silent" else None):
            async with session.post(url, data=data, headers=headers) as answer:
                request_id = answer.headers.get("x-gateway-request-id")
                if kind.leaves:
                    await _read_some(answer)
                    answer.close()
                else:
                    with contextlib.suppress(aiohttp.ClientPayloadError):  # the stream was reset
                        await answer.read()
                return Seen(name, answer.status, request_id)
    except TimeoutError:
        return Seen(name, None, None)


async def _read_some(answer: aiohttp.ClientResponse) -> None:
    received = b""
    while received.count(b"data:") < _READ_BEFORE_LEAVING and (piece := await answer.content.readany()):
        received += piece
