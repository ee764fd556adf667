"""What is asked, and how each target is asked for the same thing.

In: a scenario and a target. Out: the bytes of a request, in the two halves that `bench.load` puts a sequence number
between, and what is at the end of a whole answer. The provider does the same work whichever way it is reached.
"""

import random
from typing import Any, Literal

import msgspec

TargetName = Literal["direct", "envoy", "gateway", "headers", "grpcio", "tensorzero"]
# The provider itself; Envoy alone; the gateway; with `response_metadata: headers`; with grpcio as its transport;
# TensorZero's gateway.
TARGETS: tuple[TargetName, ...] = ("direct", "envoy", "gateway", "headers", "grpcio", "tensorzero")
_USUAL: tuple[TargetName, ...] = ("direct", "envoy", "gateway")
_BESIDE: tuple[TargetName, ...] = ("envoy", "gateway", "headers", "grpcio", "tensorzero")

TEAM_KEY, UNLIMITED_KEY = "sk-bench-team", "sk-bench-unlimited"
PROVIDER_KEY = "sk-bench-provider"
CHUNKS = 200  # text events of a streamed answer; words of a whole one
_PROMPT_WORDS = 200
_LONGEST_STREAM_MS = 2_000
_MARK = "@@sequence@@"
_VOCABULARY = (
    "gateway request answer budget stream token model provider latency cache route limit team price queue worker "
    "socket header body chunk retry failover ledger settle audit metric trace window second minute"
)


_MODEL: dict[Literal["openai", "anthropic"], str] = {"openai": "bench-openai", "anthropic": "bench-anthropic"}


class Scenario(msgspec.Struct, frozen=True):
    """A kind of request, at a rate per second or on so many connections, each sending when it was answered."""

    name: str
    rate: float  # 0: by connections
    format: Literal["openai", "anthropic"]  # what the provider speaks; clients of the gateway speak OpenAI's
    stream: bool
    cached: bool = False  # the same request each time, but for who asks
    limited: bool = True  # by a team with budgets and rates: something is held and settled
    connections: int = 0
    prompt_bytes: int = 0  # 0: a prompt of 200 words
    chunks: int = 0  # 0: what the provider does by itself: CHUNKS, as far apart as `--gap` says
    targets: tuple[TargetName, ...] = _USUAL

    @property
    def title(self) -> str:
        """In words."""
        pace = f"{self.rate:g}/s" if self.rate else f"{self.connections} connections"
        kind = f"streams of {self.chunks or CHUNKS} chunks" if self.stream else "whole answers"
        way = "same format" if self.format == "openai" else f"translated from {self.format}"
        more = [
            *(["from the cache"] if self.cached else [way]),
            *([] if self.limited else ["a team without limits"]),
            *([f"prompts of {self.prompt_bytes:,} bytes"] if self.prompt_bytes else []),
        ]
        return ", ".join([pace, kind, *more])


def _streams(chunks: int, rate: float, kind: Literal["openai", "anthropic"]) -> Scenario:
    """4,000 chunks a second, as `stream-20` has them, in shorter or longer streams."""
    name = f"chunks-{chunks}" if kind == "openai" else f"translated-chunks-{chunks}"
    return Scenario(name, rate, kind, stream=True, chunks=chunks, targets=("envoy", "gateway"))


SCENARIOS = (
    Scenario("plain-167", 167, "openai", stream=False, targets=(*_USUAL, "headers")),
    Scenario("unlimited-167", 167, "openai", stream=False, limited=False),
    Scenario("plain-500", 500, "openai", stream=False),
    Scenario("stream-20", 20, "openai", stream=True),
    Scenario("stream-167", 167, "openai", stream=True),
    Scenario("translated-plain-167", 167, "anthropic", stream=False),
    Scenario("translated-stream-20", 20, "anthropic", stream=True),
    Scenario("cache-hit-167", 167, "openai", stream=False, cached=True),
    *(
        Scenario(f"closed-{count}", 0, "openai", stream=False, connections=count, targets=_BESIDE)
        for count in (1, 16, 64)
    ),
    *(
        Scenario(f"body-{name}", rate, "openai", stream=False, prompt_bytes=size, targets=("envoy", "gateway"))
        for name, size, rate in (("1k", 1_000, 167), ("100k", 100_000, 50), ("10m", 10 * 1024 * 1024, 2))
    ),
    *(_streams(chunks, 4_000 / chunks, kind) for kind in _MODEL for chunks in (20, 2_000)),  # 200: see above
)
SUSTAINED = "stream-167"  # also run long
USUAL = ("plain-167", "plain-500", "stream-20", "translated-stream-20")  # without --all or --only


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
    native = target in ("direct", "envoy")
    anthropic = native and scenario.format == "anthropic"
    prompt = _prompt(scenario)
    body: dict[str, Any] = {
        "model": _MODEL[scenario.format],
        "messages": [{"role": "user", "content": prompt if scenario.cached else f"Request {_MARK}: {prompt}"}],
        "stream": scenario.stream,
    }
    if scenario.cached:
        body["user"] = _MARK
    if anthropic:
        body["max_tokens"] = 4096
    elif native and scenario.stream:
        body["stream_options"] = {"include_usage": True}  # the gateway asks for it, so the provider sends it to all
    if target == "tensorzero":
        body["model"] = f"tensorzero::model_name::{body['model']}"
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
    if target == "tensorzero":
        path = f"/openai{path}"
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + before, after


def last(scenario: Scenario, target: TargetName) -> bytes:
    """What is at the end of a whole answer's body."""
    if not scenario.stream:
        return b"}"
    if scenario.format == "anthropic" and target in ("direct", "envoy"):
        return b'data: {"type":"message_stop"'
    return b"data: [DONE]\n\n"


def _prompt(scenario: Scenario) -> str:
    """Words, as many as make `prompt_bytes`; what the demo provider is to do stands behind them."""
    rng = random.Random(1)
    text = " ".join(rng.choices(_VOCABULARY.split(), k=_PROMPT_WORDS))
    if scenario.prompt_bytes:
        text = (text * (scenario.prompt_bytes // len(text) + 1))[: scenario.prompt_bytes]
    if not scenario.chunks:
        return text
    gap_ms = _LONGEST_STREAM_MS // scenario.chunks if scenario.chunks > CHUNKS else 5
    return f"{text} [[demo chunks={scenario.chunks} chunk_interval_ms={gap_ms}]]"


def tensorzero(provider_port: int) -> str:
    """tensorzero.toml: the same provider, nothing observed (that takes a ClickHouse)."""
    return f"""
[gateway]
observability.enabled = false

[models.{_MODEL["openai"]}]
routing = ["demo"]

[models.{_MODEL["openai"]}.providers.demo]
type = "openai"
model_name = "{_MODEL["openai"]}"
api_base = "http://127.0.0.1:{provider_port}/v1/"
api_key_location = "env::BENCH_PROVIDER_KEY"
"""
