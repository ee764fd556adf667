"""Clients that ask at a steady rate while a provider breaks, and what the gateway tells of it meanwhile.

In: a gateway. Out: an `Answer` for each request; circuits and figures of `GET /v1/providers/health`.
"""

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import aiohttp

from tests.envoy.harness import ADMIN_KEY, Gateway, ask, bearer, wait_until

RPS = 20


def by_hand(gateway: Gateway, provider: str, action: str) -> int:
    return gateway.http.post(f"/v1/providers/{provider}/{action}", headers=bearer(ADMIN_KEY)).status_code


def health(gateway: Gateway, name: str = "openai") -> dict[str, Any]:
    body = gateway.http.get("/v1/providers/health", headers=bearer()).json()
    found: dict[str, Any] = next(provider for provider in body["providers"] if provider["provider"] == name)
    return found


def circuits(gateway: Gateway) -> dict[str, str]:
    """Of the provider and the model that the tests break."""
    found = health(gateway)
    models = {model["model"]: model["circuit"] for model in found["models"]}
    return {"openai": found["circuit"], "gpt-ha": models["gpt-ha"]}


class Answer:
    """What a client saw of one request."""

    def __init__(self, status: int, headers: Any) -> None:
        self.status = status
        self.model: str = headers.get("x-gateway-model", "")
        self.routing: str = headers.get("x-gateway-routing", "")
        self.attempts = int(headers.get("x-gateway-attempts", 0))

    def __repr__(self) -> str:
        return f"{self.status} {self.model} {self.routing} {self.attempts}"


def one(gateway: Gateway, model: str = "gpt-ha", **more: Any) -> Answer:
    answer = gateway.http.post("/v1/chat/completions", json=ask("hi", model, **more), headers=bearer())
    return Answer(answer.status_code, answer.headers)


class Traffic:
    """Requests at a steady rate, until told to stop."""

    def __init__(self, gateway: Gateway, model: str = "gpt-ha", rps: float = RPS) -> None:
        self.answers: list[Answer] = []
        self._gateway, self._model, self._rps = gateway, model, rps
        self._stop = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join()

    async def _run(self) -> None:
        async with aiohttp.ClientSession(headers=bearer()) as session, asyncio.TaskGroup() as group:
            while not self._stop:
                group.create_task(self._one(session))
                await asyncio.sleep(1 / self._rps)

    async def _one(self, session: aiohttp.ClientSession) -> None:
        url = f"{self._gateway.url}/v1/chat/completions"
        async with session.post(url, json=ask("hi", self._model)) as answer:
            await answer.read()
            self.answers.append(Answer(answer.status, answer.headers))

    def until(self, condition: Callable[[list[Answer]], bool], what: str) -> None:
        """Wait for answers, of those that come from now on."""
        seen = len(self.answers)
        wait_until(lambda: condition(self.answers[seen:]), 20, what)


def in_use(answers: list[Answer]) -> bool:
    """The provider's own answers, one after the other: it is no longer a matter of probes."""
    return len(answers) >= 8 and all(answer.model == "gpt-ha" for answer in answers[-8:])


def knows_p99(gateway: Gateway) -> bool:
    known = json.loads((gateway.data_dir / "standings.json").read_text())
    return "whole_p99_ms" in known.get("latencies", {}).get("openai/gpt-ha", {})


def routed_around(answers: list[Answer]) -> bool:
    return len(answers) >= 8 and all(answer.attempts == 1 and answer.model != "gpt-ha" for answer in answers[-8:])
