"""What an exchange costs in our own code: no gRPC, no Envoy, no ledger, no sockets.

In: serialised ProcessingRequest messages like those that Envoy sends, and answers of the demo provider. Out: a table of
microseconds per phase (medians), and optionally a profile. Called by `python -m bench exchange`.

The ledger is replaced by one that admits everything at once; `python -m bench.ledger` measures the real one.
"""

import asyncio
import cProfile
import io
import pstats
import statistics
import time
from collections.abc import Coroutine, Generator, Iterable, Sequence
from itertools import chain
from types import CoroutineType
from typing import Any

import msgspec
import yaml

from bench import scenarios
from bench.scenarios import SCENARIOS, Scenario
from control.demo.anthropic import Anthropic
from control.demo.ask import Shape
from control.demo.base import Format, Meta
from control.demo.faults import Faults
from control.demo.openai import OpenAI
from control.demo.text import PromptCache, compose
from control.demo.wire import parse_head
from extproc.budget.estimate import OutputEstimates
from extproc.budget.ledger import Account, Admitted, HoldState, Minute, Refused, Reservation, Rider, Standing
from extproc.budget.reserve import Reserver
from extproc.budget.windows import Windows
from extproc.catalog import compile_catalog
from extproc.exchange.answering import Options
from extproc.exchange.exchange import Exchange
from extproc.exchange.live import Live
from extproc.exchange.states import State
from extproc.pipeline import Pipeline
from extproc.process.memory import keep_memory
from extproc.routing.standing import View
from extproc.settings import parse
from extproc.tokens import Estimator
from protos.gen import extproc_pb2 as pb

# A scenario of `scenarios`, then bytes of the prompt (None: the scenario's own) and text events of the answer.
_CASES: tuple[tuple[str, int | None, int], ...] = (
    ("plain-167", None, scenarios.CHUNKS),
    ("plain-167", 1_000, scenarios.CHUNKS),
    ("plain-167", 100_000, scenarios.CHUNKS),
    ("plain-167", 10 * 1024 * 1024, scenarios.CHUNKS),
    ("stream-167", None, scenarios.CHUNKS),  # passes by Envoy alone: nothing is seen of its answer
    ("translated-plain-167", None, scenarios.CHUNKS),
    *(("translated-stream-20", None, chunks) for chunks in (20, 200, 2000)),
)
_LONG_BYTES = 1024 * 1024  # such prompts are measured a hundredth as often
_FORMATS: dict[str, Format] = {"openai": OpenAI(), "anthropic": Anthropic()}
_PHASES = ("request headers", "request body", "answer headers", "answer body", "each chunk", "all", "longest step")
_WARM_UP_CALLS = 50
_PROFILE_LINES = 30
_OTHERS_BYTES = 8 * 1024 * 1024  # what other processes go through meanwhile: four times this kind of machine's L2 cache
# As the official SDK and Envoy send them.
_HEADERS = {
    ":authority": "127.0.0.1:8080",
    ":path": "/v1/chat/completions",
    ":method": "POST",
    ":scheme": "http",
    "authorization": f"Bearer {scenarios.TEAM_KEY}",
    "accept": "application/json",
    "content-type": "application/json",
    "user-agent": "OpenAI/Python 3.54.0",
    "x-stainless-lang": "python",
    "x-stainless-package-version": "3.54.0",
    "x-stainless-os": "Linux",
    "x-stainless-arch": "x64",
    "x-stainless-runtime": "CPython",
    "x-stainless-runtime-version": "3.11.7",
    "x-stainless-async": "false",
    "x-stainless-retry-count": "0",
    "x-forwarded-proto": "http",
    "x-forwarded-for": "127.0.0.1",
}
_BESIDE = b"B\x00"  # Envoy puts an empty metadata_context behind each message


class Exchanged(msgspec.Struct, frozen=True):
    """The messages of one exchange: up to the answer's headers, then its body in pieces."""

    head: tuple[bytes, ...]
    body: tuple[bytes, ...]


class _Yes:
    """Holds that are always there."""

    _standing = Standing(Account(), Account(), Minute())

    def rider(self, reservation: Reservation) -> None:  # noqa: ARG002
        return None

    async def reserve(self, reservation: Reservation, rider: Rider | None = None) -> Admitted | Refused:  # noqa: ARG002
        return Admitted(reservation.output_tokens, self._standing)

    async def standing(self, team_id: str, windows: Windows, now_ms: int) -> Standing:  # noqa: ARG002
        return self._standing

    async def release(self, team_id: str, hold_id: str) -> HoldState:  # noqa: ARG002
        return "held"


class _Timed:
    """A coroutine, and how long it ran at a stretch, in microseconds: for so long no other request has its turn."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self._work = work
        self.steps: list[float] = []

    def __await__(self) -> Generator[Any, Any, Any]:
        sent = None
        while True:
            began = time.perf_counter_ns()
            try:
                waits_for = self._work.send(sent)
            except StopIteration as stop:
                return stop.value
            finally:
                self.steps.append((time.perf_counter_ns() - began) / 1000)
            sent = yield waits_for


class _Clock:
    wall_s = staticmethod(time.time)
    mono_ns = staticmethod(time.monotonic_ns)


class _Others:
    """Stands for whoever has the core between two messages: afterwards the caches hold nothing of ours."""

    def __init__(self) -> None:
        self._from, self._to = bytes(_OTHERS_BYTES), bytearray(_OTHERS_BYTES)

    def run(self) -> None:
        self._to[:] = self._from


def measure(calls: int, *, profile: bool, cold: bool) -> str:
    """The table, or with `profile` what cProfile says of the same work; with `cold` each message meets cold caches."""
    keep_memory()  # as a worker does
    others = _Others() if cold else None
    profiler = cProfile.Profile() if profile else None
    by_name = {item.name: item for item in SCENARIOS}
    rows = [_case(by_name[name], size, chunks, calls, profiler, others) for name, size, chunks in _CASES]
    if profiler is not None:
        out = io.StringIO()
        pstats.Stats(profiler, stream=out).sort_stats("tottime").print_stats(_PROFILE_LINES)
        return out.getvalue()
    head = f"{'µs, median':42}" + "".join(f"{phase:>17}" for phase in _PHASES)
    return "\n".join([head, *rows])


def _case(
    scenario: Scenario,
    size: int | None,
    chunks: int,
    calls: int,
    profiler: cProfile.Profile | None,
    others: _Others | None,
) -> str:
    messages = _messages(scenario, size, chunks)
    if scenario.stream and scenario.format != "openai":
        calls = max(5, calls * 20 // (10 * chunks))
    elif size is not None and size > _LONG_BYTES:
        calls = max(5, calls // 100)
    asyncio.run(_time(messages, min(calls, _WARM_UP_CALLS), [], others))
    if profiler is not None:
        profiler.enable()
    longest: list[float] = []
    took = asyncio.run(_time(messages, calls, longest, others))
    if profiler is not None:
        profiler.disable()
    heads = [_median([item[phase] for item in took if phase < len(item)]) for phase in range(3)]
    bodies = [item[3:] for item in took]
    pieces = list(chain.from_iterable(bodies)) if scenario.stream else []
    cells = [*heads, _median([sum(item) for item in bodies if item]), _median(pieces), _median([*map(sum, took)])]
    cells.append(_median(longest))
    name = f"{scenario.name}, {chunks} chunks" if scenario.stream else scenario.name
    name += f", {size:,} B asked" if size else ""
    return f"{name:42}" + "".join(f"{cell:>17}" for cell in cells)


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f}" if values else "-"


async def _time(messages: Exchanged, calls: int, longest: list[float], others: _Others | None) -> list[list[float]]:
    """Microseconds of every message of every call; to `longest`, of each call's longest step."""
    settings = parse(yaml.safe_dump(scenarios.config(8080, 9000, "unused")), {})
    pipeline = Pipeline(
        compile_catalog(settings),
        Reserver(_Yes(), Estimator(), OutputEstimates(), lease_ms=630_000),
        _Clock(),
        View(settings.breaker),
    )
    live, options = Live(), Options(worker=0)
    took = []
    for _ in range(calls):
        exchange = Exchange(pipeline, live, options)
        row, steps = [], [0.0]
        for message in (*messages.head, *messages.body):
            if others is not None:
                others.run()
            began = time.perf_counter_ns()
            said = exchange.receive(message)
            if isinstance(said, CoroutineType):
                await (timed := _Timed(said))
                steps += timed.steps
            row.append((time.perf_counter_ns() - began) / 1000)
            if exchange.state is State.DONE:
                break
        exchange.close()
        took.append(row)
        longest.append(max(steps))
    return took


def _messages(scenario: Scenario, size: int | None, chunks: int) -> Exchanged:
    asked = b"0000000000".join(scenarios.request(scenario, "gateway")).partition(b"\r\n\r\n")[2]
    if size is not None:
        text = ("Tell me more about tokens, budgets and gateways. " * (size // 48 + 1))[:size]
        asked = msgspec.json.encode({**msgspec.json.decode(asked), "messages": [{"role": "user", "content": text}]})
    frames = _answer(scenario, chunks)
    kind = "text/event-stream" if scenario.stream else "application/json"
    request = _HEADERS | {"content-length": str(len(asked)), "x-request-id": "6a4e9b0c-0000-4000-8000-000000000000"}
    answered = {
        ":status": "200",
        "content-type": kind,
        "x-request-id": "req_0123456789abcdef",
        "openai-processing-ms": "12",
        "x-ratelimit-remaining-requests": "9999",
        "x-envoy-upstream-service-time": "1",
    }
    answered["transfer-encoding" if scenario.stream else "content-length"] = (
        "chunked" if scenario.stream else str(sum(map(len, frames)))
    )
    head = (
        pb.ProcessingRequest(request_headers=_headers(request)),
        pb.ProcessingRequest(request_body=pb.HttpBody(body=asked, end_of_stream=True)),
        pb.ProcessingRequest(response_headers=_headers(answered)),
    )
    body = [pb.ProcessingRequest(response_body=pb.HttpBody(body=frame)) for frame in frames]
    body[-1].response_body.end_of_stream = True
    return Exchanged(_serialised(head), _serialised(body))


def _answer(scenario: Scenario, chunks: int) -> list[bytes]:
    """The provider's body, in the pieces it comes in."""
    wire_format = _FORMATS[scenario.format]
    head, _, body = b"0000000000".join(scenarios.request(scenario, "envoy")).partition(b"\r\n\r\n")
    asked = wire_format.read(parse_head(head), body)
    answer = compose(asked, Shape(chunks=chunks), PromptCache())
    return wire_format.reply(asked, answer, Meta("0" * 32, 1_800_000_000), Faults()).frames


def _headers(values: dict[str, str]) -> pb.HttpHeaders:
    items = [pb.HeaderValue(key=name, raw_value=value.encode()) for name, value in values.items()]
    return pb.HttpHeaders(headers=pb.HeaderMap(headers=items))


def _serialised(messages: Iterable[pb.ProcessingRequest]) -> tuple[bytes, ...]:
    return tuple(message.SerializeToString() + _BESIDE for message in messages)
