"""The books of a team while requests run: ledger, audit rows and the providers' own counters, side by side."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import openai

from extproc.budget.redis import RedisLedger
from extproc.budget.windows import windows_at
from extproc.state.redis_py import connect
from tests.envoy.harness import ZONE, Gateway, Simulator, ask, wait_until

LEASE_S = 4.0


class Books:
    """The ledger, the audit rows and the provider's counters, side by side."""

    def __init__(self, gateway: Gateway, team: str) -> None:
        self.gateway, self.team = gateway, team
        wait_until(lambda: self.held == 0, LEASE_S + 10, "what went before to be settled")
        self.used_before, self.rows_before = self._used_and_held()[0], self._row_tokens()

    def _used_and_held(self) -> tuple[int, int]:
        async def look() -> tuple[int, int]:
            client = connect(f"unix://{self.gateway.data_dir}/valkey.sock", timeout_s=5)
            now_ms = round(time.time() * 1000)
            usage = await RedisLedger(client).usage(self.team, now_ms, windows_at(now_ms, ZONE))
            await client.aclose()
            return usage.standing.daily.used_tokens, usage.standing.daily.held_tokens

        return asyncio.run(look())

    def _row_tokens(self) -> int:
        rows = self.gateway.rows(team_id=self.team)
        return sum(row["input_tokens"] + row["output_tokens"] for row in rows)

    @property
    def used(self) -> int:
        return self._used_and_held()[0] - self.used_before

    @property
    def held(self) -> int:
        return self._used_and_held()[1]

    @property
    def audited(self) -> int:
        return self._row_tokens() - self.rows_before

    def close(self, requests: int, rows_before: int) -> None:
        """Wait until all is settled; the ledger must say what the rows say."""
        wait_until(lambda: len(self.gateway.rows(team_id=self.team)) == rows_before + requests, 15, "all rows")
        wait_until(lambda: self.held == 0, LEASE_S + 10, "no hold to be left")
        wait_until(lambda: self.used == self.audited, 10, f"ledger {self.used} to be the rows' {self.audited}")


def served(*simulators: Simulator) -> int:
    return sum(simulator.total("prompt_tokens") + simulator.total("completion_tokens") for simulator in simulators)


def create(gateway: Gateway, team: str, text: str, model: str = "gpt", **more: Any) -> Any:
    return gateway.client(f"sk-{team}").chat.completions.create(**ask(text, model), **more)


def quietly(call: Callable[[], Any]) -> None:
    with contextlib.suppress(openai.APIError, Exception):
        result = call()
        if hasattr(result, "__iter__"):
            list(result)
