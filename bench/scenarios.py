"""What is asked, and how each target is asked for the same thing.

In: a scenario and a target. Out: the bytes of a request, in the two halves that `bench.load` puts a sequence number
between, and what is at the end of a whole answer. The provider does the same work whichever way it is reached.
"""

import random
from typing import Any, Literal

import msgspec

TargetName = Literal["direct", "envoy", "gateway"]
TARGETS: tuple[TargetName, ...] = ("direct", "envoy", "gateway")

TEAM_KEY, UNLIMITED_KEY = "sk-bench-team", "sk-bench-unlimited"
PROVIDER_KEY = "sk-bench-provider"
CHUNKS = 200  # text events of a streamed answer; words of a whole one
_PROMPT_WORDS = 200
_MARK = "@@sequence@@"
_VOCABULARY = (
    "gateway request answer budget stream token model provider latency cache route limit team price queue worker "
    "socket header body chunk retry failover ledger settle audit metric trace window second minute"
)


class Scenario(msgspec.Struct, frozen=True):
    """A kind of request at a rate per second."""

    name: str
    rate: float
    format: Literal["openai", "anthropic"]  # what the provider speaks; clients of the gateway speak OpenAI's
    stream: bool
    cached: bool = False  # the same request each time, but for who asks
    limited: bool = True  # by a team with budgets and rates: something is held and settled

    @property
    def title(self) -> str:
        """In words."""
        if self.cached:
            return f"{self.rate:g}/s, whole answers, from the cache"
        if not self.limited:
            return f"{self.rate:g}/s, whole answers, same format, a team without limits"
        kind = f"streams of {CHUNKS} chunks" if self.stream else "whole answers"
        way = "same format" if self.format == "openai" else f"translated from {self.format}"
        return f"{self.rate:g}/s, {kind}, {way}"


SCENARIOS = (
    Scenario("plain-167", 167, "openai", stream=False),
    Scenario("unlimited-167", 167, "openai", stream=False, limited=False),
    Scenario("plain-500", 500, "openai", stream=False),
    Scenario("stream-20", 20, "openai", stream=True),
    Scenario("stream-167", 167, "openai", stream=True),
    Scenario("translated-plain-167", 167, "anthropic", stream=False),
    Scenario("translated-stream-20", 20, "anthropic", stream=True),
    Scenario("cache-hit-167", 167, "openai", stream=False, cached=True),
)
SUSTAINED = "stream-167"  # also run long
QUICK = ("plain-167", "plain-500", "stream-20", "translated-stream-20")

_MODEL = {"openai": "bench-openai", "anthropic": "bench-anthropic"}


def config(port: int, provider_port: int, data_dir: str) -> dict[str, Any]:
    """gateway.yaml of the measured gateway: two workers, keys checked, limits accounted, everything audited."""
    base = f"http://127.0.0.1:{provider_port}/v1"
    price = {"input": 1.0, "cached_input": 0.5, "output": 4.0}
    return {
        "listen": {"port": port},
        "data_dir": data_dir,
        "workers": 2,
        "cache": {"exact": True},
        "providers": {name: {"format": name, "base_url": base, "credential": PROVIDER_KEY} for name in _MODEL},
        "models": [
            {"name": model, "provider": name, "price": price, "max_output": 4096} for name, model in _MODEL.items()
        ],
        "teams": [
            {
                "id": "bench",
                "keys": [TEAM_KEY],
                "budget": {"daily_tokens": 10**13, "monthly_tokens": 10**14},
                "limits": {"requests_per_minute": 10**8, "tokens_per_minute": 10**12},
            },
            {"id": "unlimited", "keys": [UNLIMITED_KEY]},
        ],
    }


def request(scenario: Scenario, target: TargetName) -> tuple[bytes, bytes]:
    """The whole request, split where the sequence number goes."""
    native = target != "gateway"
    anthropic = native and scenario.format == "anthropic"
    body: dict[str, Any] = {
        "model": _MODEL[scenario.format],
        "messages": [{"role": "user", "content": _prompt() if scenario.cached else f"Request {_MARK}: {_prompt()}"}],
        "stream": scenario.stream,
    }
    if scenario.cached:
        body["user"] = _MARK
    if anthropic:
        body["max_tokens"] = 4096
    elif native and scenario.stream:
        body["stream_options"] = {"include_usage": True}  # the gateway asks for it, so the provider sends it to all
    before, _, after = msgspec.json.encode(body).partition(_MARK.encode())
    headers = {"host": "bench", "content-type": "application/json", "content-length": len(before) + 10 + len(after)}
    if anthropic:
        headers |= {"x-api-key": PROVIDER_KEY, "anthropic-version": "2023-06-01"}
    else:
        team_key = TEAM_KEY if scenario.limited else UNLIMITED_KEY
        headers["authorization"] = f"Bearer {PROVIDER_KEY if native else team_key}"
        if not native and not scenario.cached:
            headers["cache-control"] = "no-store"  # measured without a cache
    path = "/v1/messages" if anthropic else "/v1/chat/completions"
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + before, after


def last(scenario: Scenario, target: TargetName) -> bytes:
    """What is at the end of a whole answer's body."""
    if not scenario.stream:
        return b"}"
    if scenario.format == "anthropic" and target != "gateway":
        return b'data: {"type":"message_stop"'
    return b"data: [DONE]\n\n"


def _prompt() -> str:
    rng = random.Random(1)
    return " ".join(rng.choices(_VOCABULARY.split(), k=_PROMPT_WORDS))
