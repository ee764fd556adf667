"""A whole gateway for tests: `gateway up` with real Envoy and Valkey, in front of simulators we can break.

In: changes to a base configuration. Out: a running gateway, official SDK clients for it, its audit rows and processes.
"""

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai
import psutil
import yaml

GATEWAY = str(Path(sys.executable).with_name("gateway"))
TEAM_KEY, OTHER_KEY, ADMIN_KEY = "sk-team", "sk-other", "sk-admin"
PROVIDER_KEY = "sk-provider-7d1f9a"
READY_S = 30.0
FORMATS = ("openai", "anthropic", "google")
MODEL_OF = {"openai": "gpt", "anthropic": "claude", "google": "gemini"}
Config = dict[str, Any]  # gateway.yaml
T = TypeVar("T")

# Read once: a client that reads them for itself takes 25 ms of CPU, more than its request does.
_AUTHORITIES = httpx.create_ssl_context()
_BUSY = 3
MIB = 1024 * 1024
# Where it is noon: no team's day or month ends while the tests run.
ZONE = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"
_BASE_PATH = {"openai": "/v1", "anthropic": "/v1", "google": "/v1beta"}


# A range for each process of pytest, below those the kernel gives out: a port that it names may be another's by the
# time it is used, and who then answers there is not the simulator that was started. Two runs at once begin apart in it.
_RANGE = 2_500
_FIRST_PORT = 10_000 + _RANGE * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 9)
_PORTS = (_FIRST_PORT + number % _RANGE for number in itertools.count(37 * os.getpid()))


def free_port() -> int:
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("the ports have no end")


class Simulator:
    """A provider process on a TCP port, speaking all three formats."""

    def __init__(self, *, api_key: str | None = PROVIDER_KEY) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        arguments = ["--listen", f"127.0.0.1:{self.port}", *(["--api-key", api_key] if api_key else [])]
        self.process = subprocess.Popen([GATEWAY, "demo", *arguments])
        self._http = httpx.Client(base_url=self.url, timeout=10)
        wait_until(self._answers, 20, "the simulator")

    def _answers(self) -> bool:
        try:
            return self._http.get("/healthz").status_code == 200
        except httpx.HTTPError:
            return False

    def base_url(self, wire_format: str) -> str:
        return self.url + _BASE_PATH[wire_format]

    def faults(self, *rules: dict[str, Any]) -> None:
        """Replace the fault rules."""
        answer = self._http.put("/_demo/faults", json=list(rules))
        assert answer.status_code < 300, answer.text

    def stats(self) -> dict[str, Any]:
        return self._http.get("/_demo/stats").json()

    def recent(self) -> list[dict[str, Any]]:
        """The last requests, oldest first."""
        found: list[dict[str, Any]] = self.stats()["recent"]
        return found[::-1]

    def total(self, name: str) -> int:
        """A counter, summed over all formats and models."""
        return sum(totals[name] for models in self.stats()["formats"].values() for totals in models.values())

    def reset(self) -> None:
        self._http.delete("/_demo/stats")
        self._http.delete("/_demo/faults")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def base_config(data_dir: Path, simulator: Simulator, second: Simulator) -> Config:
    """One provider for each format at `simulator`, one more of each at `second` to fall back on."""
    providers = {
        f"{name}{suffix}": {"format": name, "base_url": where.base_url(name), "credential": PROVIDER_KEY}
        for suffix, where in (("", simulator), ("-b", second))
        for name in FORMATS
    }
    providers["dead"] = {"format": "openai", "base_url": f"http://127.0.0.1:{free_port()}/v1"}
    price = {"input": 1.0, "cached_input": 0.5, "cache_write": 1.25, "output": 4.0}
    models = [
        {"name": f"{MODEL_OF[name]}{suffix}", "provider": f"{name}{suffix}", "upstream_name": f"{name}-model"}
        | {"price": price, "max_output": 4096}
        for suffix in ("", "-b")
        for name in FORMATS
    ]
    models += [
        {"name": f"{MODEL_OF[name]}-ha", "provider": name, "upstream_name": f"{name}-model", "price": price}
        for name in FORMATS
    ]
    models.append({"name": "dead-ha", "provider": "dead", "price": price})
    return {
        "listen": {"port": free_port()},
        "data_dir": str(data_dir),
        "admin": {"keys": [ADMIN_KEY]},
        "providers": providers,
        "models": models,
        "equivalents": [
            {"models": ["gpt-ha", "claude-b", "gemini-b"]},
            {"models": ["claude-ha", "gpt-b", "gemini-b"]},
            {"models": ["gemini-ha", "gpt-b", "claude-b"]},
            {"models": ["dead-ha", "gpt-b"]},
        ],
        # Far from what anything takes on a busy machine: see `impatient`.
        "routing": {"attempts": 3, "first_byte_timeout": "30s"},
        # Tests of faults share a gateway: what one does to a provider's health must not change what the next one sees.
        "breaker": {
            "consecutive_failures": 1_000_000,
            "min_requests": 1_000_000,
            # Workers hear of it at once: it must be over by then.
            "open_for": "1ms",
            "probe_share": 1.0,
            "max_retry_after": 0.0001,
        },
        "state": {"timeout": "1s"},
        "teams": [
            {"id": "team-a", "keys": [TEAM_KEY]},
            {"id": "team-b", "keys": [OTHER_KEY], "models": ["gpt"]},
        ],
        "timeouts": {"drain": "5s", "idle": "60s"},
    }


def impatient(config: Config) -> Config:
    """For tests of what does not come: waits end soon. On a busy machine so does one for what would have come."""
    config["routing"]["first_byte_timeout"] = "2s"
    config["timeouts"]["idle"] = "5s"
    return config


class Gateway:
    """`gateway up` as a child process; ready when the constructor returns. Its file and its log lie beside its data.
    `transport`: options of httpx by which clients reach one that does not listen in plain HTTP on a port."""

    def __init__(self, config: Config, env: dict[str, str] | None = None, **transport: Any) -> None:
        self.config = config
        self.port: int = config["listen"]["port"]
        self.url = f"{'https' if 'tls' in config['listen'] else 'http'}://127.0.0.1:{self.port}"
        self.transport = transport
        self.data_dir = Path(config["data_dir"])
        self.folder = self.data_dir.parent
        self.file = self.folder / "gateway.yaml"
        for team in config["teams"]:
            team["budget"] = {"timezone": ZONE} | team.get("budget", {})
        self.file.write_text(yaml.safe_dump(config))
        self.log_path = self.folder / "gateway.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [GATEWAY, "up", "--config", str(self.file), "--ready-timeout", str(_BUSY * READY_S)],
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | (env or {}),
            )
        ready = self.url
        if self.port is None:
            self.url, ready = "http://gateway", f"unix:{config['listen']['unix_socket']}"
        self.http = httpx.Client(base_url=self.url, timeout=30, **transport)
        self._await_ready(f"ready {ready}\n".encode())

    def _await_ready(self, ready: bytes) -> None:
        lines: list[bytes] = []
        reader = threading.Thread(target=lambda: lines.extend(iter(self.process.stdout.readline, b"")), daemon=True)
        reader.start()
        try:
            wait_until(lambda: ready in lines or self.process.poll() is not None, READY_S, "the ready line")
        finally:
            if ready not in lines:
                self.process.kill()
        assert ready in lines, self.log()

    def log(self) -> str:
        return self.log_path.read_text()

    def client(self, key: str = TEAM_KEY, **options: Any) -> openai.OpenAI:
        if self.transport:
            http: Any = httpx.Client(timeout=30, **self.transport)
        else:
            http = openai.DefaultHttpxClient(timeout=30, verify=_AUTHORITIES)
        options = {"http_client": http} | options
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30, **options)

    def rows(self, key: str = ADMIN_KEY, **query: Any) -> list[dict[str, Any]]:
        """Audit rows, newest first."""
        answer = self.http.get("/v1/requests", params={"limit": 1000} | query, headers=bearer(key))
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["requests"]
        return found

    def row(self, request_id: str, timeout_s: float = 25.0) -> dict[str, Any]:
        """The audit row of one request; waits for it."""
        found: dict[str, Any] = {}

        def look() -> bool:
            answer = self.http.get(f"/v1/requests/{request_id}", headers=bearer(ADMIN_KEY))
            assert answer.status_code in (200, 404), answer.text
            if answer.status_code == 200:
                found.update(answer.json())
            return bool(found)

        wait_until(look, timeout_s, f"an audit row for {request_id}")
        return found

    def new_row(self, began: float, status: str, timeout_s: float = 10.0) -> dict[str, Any]:
        """The audit row, of this status, of the last request since `began` (wall clock); waits for it.

        For requests whose id the client never learnt. The newest row alone may be another request's, settled before.
        """
        wait_until(lambda: self.rows(since=began, status=status), timeout_s, f"a {status} row")
        return self.rows(since=began, status=status)[0]

    def counted(self, name: str) -> int:
        """A counter of Envoy's."""
        admin = httpx.HTTPTransport(uds=str(self.data_dir / "run" / "admin.sock"))
        with httpx.Client(transport=admin) as client:
            wanted = {"filter": f"^{name}$", "format": "json"}
            (found,) = client.get("http://admin/stats", params=wanted).json()["stats"]
        return int(found["value"])

    def processes(self, title: str) -> list[psutil.Process]:
        """Descendants whose command line contains `title`."""
        alive = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if title in " ".join(process.cmdline()):
                    alive.append(process)
        return alive

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextlib.contextmanager
def running(config: Config, env: dict[str, str] | None = None, **transport: Any) -> Iterator[Gateway]:
    """A gateway that is stopped at the end, in order; options as those of `Gateway`."""
    gateway = Gateway(config, env, **transport)
    try:
        yield gateway
    finally:
        code = gateway.stop()
    assert code == 0, gateway.log()[-3000:]
    assert not re.search(r'"child":"envoy","end":"(?!signal SIGKILL)[^"]+"', gateway.log()), "Envoy ended unkilled"


@contextlib.contextmanager
def running_pair(first: Config, other: Config, env: dict[str, str] | None = None) -> Iterator[tuple[Gateway, Gateway]]:
    """Two replicas: the other one goes by the first one's state."""
    state = other["state"] | {"url": f"unix://{first['data_dir']}/valkey.sock"}
    with running(first, env) as gateway, running(other | {"state": state}, env) as replica:
        yield gateway, replica


def bearer(key: str = TEAM_KEY) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def wait_until(condition: Any, timeout_s: float, what: str) -> None:
    """`timeout_s`: what is generous on a quiet machine; a busy one gets three times as much."""
    deadline = time.monotonic() + _BUSY * timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {_BUSY * timeout_s:g} s for {what}"
        time.sleep(0.05)


def at_once(call: Callable[[], T]) -> list[T]:
    """What comes of requests at one moment, so many that each of two workers has some."""
    with ThreadPoolExecutor(10) as pool:
        return [each.result() for each in [pool.submit(call) for _ in range(10)]]


def ask(text: str, model: str = "gpt", **more: Any) -> dict[str, Any]:
    """Arguments of a chat completion."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def marker(**faults: Any) -> str:
    """A request for faults of the simulator, to put into a prompt."""
    return "[[demo " + " ".join(f"{name}={value}" for name, value in faults.items()) + "]]"


@contextlib.contextmanager
def raw_post(gateway: Gateway, body: dict[str, Any], key: str = TEAM_KEY) -> Iterator[socket.socket]:
    """A plain socket that has sent a chat request: for leaving early."""
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(head.encode() + data)
        yield connection


@contextlib.contextmanager
def uploads(gateway: Gateway, count: int) -> Iterator[list[socket.socket]]:
    """Requests of 30 MiB that have only begun."""
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {TEAM_KEY}\r\ncontent-length: {30 * MIB}\r\n\r\n{{"
    )
    with contextlib.ExitStack() as open_ones:
        found = []
        for _ in range(count):
            one = open_ones.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
            one.settimeout(30)
            one.sendall(head.encode())
            found.append(one)
        yield found
