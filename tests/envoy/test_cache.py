"""The cache through a real Envoy, with the official SDK as the judge of what is replayed."""

import itertools
import os
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.envoy.harness import (
    FORMATS,
    MODEL_OF,
    TEAM_KEY,
    Gateway,
    Simulator,
    ask,
    base_config,
    wait_until,
)

MODELS = [MODEL_OF[name] for name in FORMATS]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def gateway(simulators: tuple[Simulator, Simulator], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The shared gateway's configuration, with a cache."""
    folder = tmp_path_factory.mktemp("gw")
    config = base_config(folder / "data", *simulators)
    config["cache"] = {"exact": True, "max_entry_bytes": 65536, "coalesce_wait": "4s"}
    running = Gateway(config, folder)
    yield running
    assert running.stop() == 0, running.log()[-3000:]


def fresh(text: str = "Tell me a long story") -> str:
    """A question that was never asked before."""
    return f"{text} {os.getpid()}-{next(_numbers)}"


class Answer:
    """One answer, whole or streamed, as the SDK understood it."""

    def __init__(self, gateway: Gateway, body: dict[str, Any], key: str = TEAM_KEY, **headers: str) -> None:
        stream = bool(body.get("stream"))
        raw = gateway.client(key).chat.completions.with_raw_response.create(**body, extra_headers=headers)
        self.headers: httpx.Headers = raw.headers
        self.cache = raw.headers["x-gateway-cache"]
        self.id = raw.headers["x-gateway-request-id"]
        if stream:
            self.chunks: Any = list(raw.parse())
            state = openai.lib.streaming.chat.ChatCompletionStreamState()
            for chunk in self.chunks:
                state.handle_chunk(chunk)
            self.completion: Any = state.get_final_completion() if False else state.current_completion_snapshot
        else:
            self.completion = raw.parse()
        self.text = self.completion.choices[0].message.content


def asked(gateway: Gateway, body: dict[str, Any], **options: Any) -> Answer:
    return Answer(gateway, body, **options)


def until_hit(gateway: Gateway, body: dict[str, Any], **options: Any) -> Answer:
    """Ask until the cache answers: an answer is kept within a second of its end."""
    found: list[Answer] = []

    def look() -> bool:
        found[:] = [asked(gateway, body, **options)]
        return found[0].cache == "hit"

    wait_until(look, 1.0, "a hit")
    return found[0]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("first", "then"), [(False, True), (True, False), (True, True), (False, False)])
def test_one_entry_serves_whole_and_streamed(
    gateway: Gateway, primary: Simulator, model: str, first: bool, then: bool
) -> None:
    question = fresh()
    original = asked(gateway, ask(question, model, stream=first))
    assert original.cache == "miss"
    hit = until_hit(gateway, ask(question, model, stream=then))
    assert hit.text == original.text
    assert hit.completion.id == original.completion.id
    assert hit.completion.choices[0].finish_reason == "stop"
    assert hit.headers["x-gateway-cache-key"] == original.headers["x-gateway-cache-key"]
    assert int(hit.headers["age"]) <= 2
    assert hit.headers["x-gateway-model"] == model
