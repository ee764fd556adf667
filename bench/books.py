"""The books after a run: what audit rows, ledger and provider say was used.

In: replicas that serve, the provider's address. Out: `Books`. Waits until everything is settled.
"""

import asyncio
import time
from collections import Counter
from typing import Any

import aiohttp
import msgspec

from bench.replicas import ADMIN_KEY, Replica

_SETTLED_S = 60.0


class Sums(msgspec.Struct, frozen=True):
    """Requests, and input and output tokens together."""

    requests: int
    tokens: int


class Books(msgspec.Struct, frozen=True):
    """Three accounts of the same."""

    audit: Sums
    statuses: dict[str, int]
    ledger_tokens: int
    held_tokens: int
    provider: Sums


async def sums_of(replicas: list[Replica], provider_url: str, sent: int) -> Books:
    """The books, once the rows of `sent` requests are there and the ledger has them all, or a minute has passed."""
    deadline_s = time.monotonic() + _SETTLED_S
    async with aiohttp.ClientSession() as session:
        while True:
            books = await _books(session, replicas, provider_url)
            settled = books.audit.requests >= sent and not books.held_tokens
            if (settled and books.audit.tokens == books.ledger_tokens) or time.monotonic() > deadline_s:
                return books
            await asyncio.sleep(1.0)


async def _books(session: aiohttp.ClientSession, replicas: list[Replica], provider_url: str) -> Books:
    rows = {row["request_id"]: row for replica in replicas for row in await _rows(session, replica)}
    usage = await _json(session, f"{replicas[0].url}/v1/usage")
    stats = await _json(session, f"{provider_url}/_demo/stats")
    totals = [totals for models in stats["formats"].values() for totals in models.values()]
    return Books(
        audit=Sums(len(rows), sum(row["input_tokens"] + row["output_tokens"] for row in rows.values())),
        statuses=Counter(row["status"] for row in rows.values()),
        ledger_tokens=usage["monthly"]["used_tokens"],
        held_tokens=usage["monthly"]["held_tokens"],
        provider=Sums(
            sum(each["requests"] for each in totals),
            sum(each["prompt_tokens"] + each["completion_tokens"] for each in totals),
        ),
    )


async def _rows(session: aiohttp.ClientSession, replica: Replica) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = await _json(session, f"{replica.url}/v1/requests?limit=1000{cursor}")
        found += page["requests"]
        if not page["next_cursor"]:
            return found
        cursor = f"&cursor={page['next_cursor']}"


async def _json(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url, headers={"authorization": f"Bearer {ADMIN_KEY}"}) as answer:
        answer.raise_for_status()
        return await answer.json()


async def provider_keys(provider_url: str, *keys: str) -> None:
    """Have the simulator take these keys and no others."""
    async with aiohttp.ClientSession() as session, session.put(f"{provider_url}/_demo/keys", json=keys) as answer:
        answer.raise_for_status()
