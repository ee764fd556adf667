"""Questions to a gateway with a cache, and what its tests wait for."""

import itertools
import os
from typing import Any

import httpx
import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState

from tests.envoy.harness import (
    Config,
    Gateway,
    ask,
    wait_until,
)

WAIT_S = 25.0  # of who follows a request in flight: longer than any answer takes on a busy machine
TEAMS: dict[str, dict[str, Any]] = {
    "a": {},
    "b": {},
    "books": {},
    "shared-1": {"cache": {"shared": True}},
    "shared-2": {"cache": {"shared": True}},
    "shared-gpt": {"cache": {"shared": True}, "models": ["gpt"]},
    "rate": {"limits": {"requests_per_minute": 3}},
    "broke": {"budget": {"daily_tokens": 250}},
}


@pytest.fixture(scope="module")
def config(config: Config) -> Config:
    """The shared gateway's configuration, with a cache and teams of its own."""
    config["cache"] = {"exact": True, "max_entry_bytes": 65536, "coalesce_wait": f"{WAIT_S}s"}
    config["teams"] = [{"id": name, "keys": [f"sk-{name}"]} | settings for name, settings in TEAMS.items()]
    config["routing"]["auto"] = {"simple": ["gpt"], "medium": ["claude"], "hard": ["claude"]}
    return config


_numbers = itertools.count()


def fresh(text: str = "Tell me a long story") -> str:
    """A question that was never asked before."""
    return f"{text} {os.getpid()}-{next(_numbers)}"


class Asked:
    """One answer, whole or streamed, as the SDK understood it."""

    def __init__(self, gateway: Gateway, body: dict[str, Any], team: str = "a", **headers: str) -> None:
        client = gateway.client(f"sk-{team}")
        raw = client.chat.completions.with_raw_response.create(**body, extra_headers=headers)
        self.headers: httpx.Headers = raw.headers
        self.cache = raw.headers["x-gateway-cache"]
        self.id = raw.headers["x-gateway-request-id"]
        self.completion: Any = raw.parse()
        if body.get("stream"):
            self.chunks: Any = list(self.completion)
            state: Any = ChatCompletionStreamState(input_tools=openai.NOT_GIVEN)
            for chunk in self.chunks:
                state.handle_chunk(chunk)
            self.completion = state.current_completion_snapshot
        self.text = self.completion.choices[0].message.content


def until_hit(gateway: Gateway, body: dict[str, Any], team: str = "a") -> Asked:
    """Ask until the cache answers."""
    asked: list[Asked] = []

    def hit() -> bool:
        asked.append(Asked(gateway, body, team))
        return asked[-1].cache == "hit"

    wait_until(hit, 10, "the cache to answer")
    return asked[-1]


def metric(gateway: Gateway, name: str, **labels: str) -> float:
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = gateway.http.get("/metrics").text.splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith(f"{name}{{") and all(label in line for label in wanted)
    )


def looked_up(gateway: Gateway) -> bool:
    """Whether a worker is there, and asks the store."""
    try:
        return Asked(gateway, ask(fresh())).cache == "miss"
    except openai.APIError:
        return False
