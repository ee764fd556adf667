"""What a request of 10 MiB costs its worker, and how long small ones beside it wait: `python -m bench large`.

In: nothing. Out: lines of a table. One worker, so that every small request meets the large ones, and two providers, so
that reading 10 MiB holds up no small answer there. Small requests are an open loop in a process of its own; large ones
come one at a time. The same is played through Envoy alone, for what the machine and Envoy do to the small ones.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from bench import runs, scenarios, usage
from bench.client import Call
from bench.closed import Telling, connect
from bench.load import Load, Result
from bench.scenarios import SCENARIOS, TargetName
from bench.stack import HOST, Running, envoy_at, gateway_at, provider_at, sink_at

LARGE_BYTES = 10 * 1024 * 1024
TURNS = 101
RATE = 100.0  # small requests a second
_PAUSE_S = 0.3  # between two large requests
_FLUSH_S = 1.0
_SHOWN_MS = 1.0
_SENTENCE = "Tell me more about tokens, budgets and gateways. "
_WIDE = "なぜ空は青いのですか。"


class Beside(msgspec.Struct, frozen=True):
    """A run of small requests, with large ones beside them or not."""

    small_ms: list[float]  # sorted
    large_ms: list[float]
    errors: int
    cpu_ms: dict[str, float]  # by role


def measure(seconds: float) -> Iterator[str]:
    """Lines of the table, as they are found. `seconds` of each run."""
    yield f"{'':24}{'small requests beside, ms':>30}  {'large, ms':>9}"
    yield f"{'':24}{'p50':>10}{'p99':>10}{'max':>10}  {'p50':>9}  CPU ms for each"
    with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as ending:
        folder = Path(name)
        small = ending.enter_context(provider_at(folder, 0, "small"))
        large = ending.enter_context(sink_at(folder))
        document = _document(small.port, large.port)
        alone = ending.enter_context(envoy_at(folder, scenarios.config(1, small.port, str(folder)) | document))
        gateway = ending.enter_context(gateway_at(folder, small.port, name="gateway", workers=1, **document))
        targets: dict[TargetName, Running] = {"envoy": alone, "gateway": gateway}
        for target, each in targets.items():
            _run(each, target, None, 1.0)
            base = _run(each, target, None, seconds)
            yield _line(f"{target}, none", base, None)
            for kind, messages in _conversations(LARGE_BYTES).items():
                yield _line(f"{target}, {kind}", _run(each, target, messages, seconds), base)


def _conversations(size: int) -> dict[str, list[dict[str, Any]]]:
    """Of `size` bytes each."""
    turn, image = _filled(_SENTENCE, size // TURNS), "data:image/png;base64," + "QUJD" * (size // 4)
    picture = {"type": "image_url", "image_url": {"url": image}}
    return {
        "one text": [{"role": "user", "content": _filled(_SENTENCE, size)}],
        f"{TURNS} turns": [{"role": ("user", "assistant")[at % 2], "content": turn} for at in range(TURNS)],
        "an image": [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}],
        "one Japanese text": [{"role": "user", "content": _filled(_WIDE, size // 3)}],
    }


def _filled(text: str, chars: int) -> str:
    return (text * (chars // len(text) + 1))[:chars]


def _document(small_port: int, large_port: int) -> dict[str, Any]:
    """Providers and models: Envoy alone sends /v1/messages to `anthropic`, the gateway `bench-large` to `large`."""
    common = {"credential": scenarios.PROVIDER_KEY}
    small, large = (f"http://{HOST}:{port}/v1" for port in (small_port, large_port))
    return {
        "providers": {
            "openai": {"format": "openai", "base_url": small, **common},
            "large": {"format": "openai", "base_url": large, **common},
            "anthropic": {"format": "anthropic", "base_url": large, **common},
        },
        "models": [
            {"name": "bench-openai", "provider": "openai", "max_output": 4096},
            {"name": "bench-large", "provider": "large", "max_output": 4096},
        ],
    }


def _large(target: TargetName, messages: list[dict[str, Any]]) -> bytes:
    body = msgspec.json.encode({"model": "bench-large", "messages": messages, "max_tokens": 4096})
    path, key = ("/v1/messages", f"x-api-key: {scenarios.PROVIDER_KEY}\r\nanthropic-version: 2023-06-01")
    if target == "gateway":
        path, key = ("/v1/chat/completions", f"authorization: Bearer {scenarios.TEAM_KEY}\r\ncache-control: no-store")
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n{key}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _run(at: Running, target: TargetName, messages: list[dict[str, Any]] | None, seconds: float) -> Beside:
    before = usage.snapshot(at.processes)
    result, large = asyncio.run(_both(at.port, target, messages, seconds))
    time.sleep(_FLUSH_S)
    failed = [call for call in large if call.error is not None or call.reader.status != 200]
    return Beside(
        small_ms=sorted(each / 1000 for each in result.total_us),
        large_ms=[1000 * (call.done_s - call.sent_s) for call in large],
        errors=sum(result.errors.values()) + len(failed),
        cpu_ms={role: 1000 * used.cpu_s for role, used in usage.since(before, at.processes).items()},
    )


async def _both(
    port: int, target: TargetName, messages: list[dict[str, Any]] | None, seconds: float
) -> tuple[Result, list[Call]]:
    scenario = next(item for item in SCENARIOS if item.name == "plain-167")
    load = Load(
        host=HOST,
        port=port,
        request=scenarios.request(scenario, target),
        last=scenarios.last(scenario, target),
        rate=RATE,
        seconds=seconds,
    )
    playing = asyncio.create_task(asyncio.to_thread(runs.generate, load))
    large: list[Call] = []
    if messages is not None:
        asked, connection = _large(target, messages), await connect(port)
        while not playing.done():
            large.append(await _ask(connection, asked, len(large)))
            await asyncio.sleep(_PAUSE_S)
        connection.close()
    return await playing, large


async def _ask(connection: Telling, request: bytes, number: int) -> Call:
    told = connection.told = asyncio.get_running_loop().create_future()
    connection.send(Call(number, time.monotonic()), request)
    call: Call = await told
    return call


def _line(name: str, run: Beside, base: Beside | None) -> str:
    small = run.small_ms
    cells = (statistics.median(small), small[len(small) * 99 // 100], small[-1])
    line = f"{name:24}" + "".join(f"{cell:10.1f}" for cell in cells)
    if base is not None:
        share = len(small) / len(base.small_ms)
        own = {role: (cpu_ms - base.cpu_ms[role] * share) / len(run.large_ms) for role, cpu_ms in run.cpu_ms.items()}
        line += f"  {statistics.median(run.large_ms):9.0f}  "
        line += ", ".join(f"{role} {ms:.1f}" for role, ms in own.items() if ms > _SHOWN_MS)
    return line + (f"  {run.errors} ERRORS" if run.errors else "")
