"""A client that leaves while its request is decided, and comes again at once: nobody waits for what will not come."""

import json
import random
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from tests.envoy.harness import TEAM_KEY, Config, Gateway, ask, bearer, wait_until

FLIGHTS = "gw:cache:{team:team-a}:flight:*"


@pytest.fixture(scope="module")
def config(config: Config) -> Config:
    return config | {"cache": {"exact": True, "coalesce_wait": "25s"}}


def leave_early(gateway: Gateway, number: int) -> None:
    body = json.dumps(ask(f"question {number}", temperature=0)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {TEAM_KEY}\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as client:
        client.sendall(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        time.sleep(random.Random(number).random() * 0.01)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_the_next_one_goes_itself(gateway: Gateway) -> None:
    """Of so many some leave just as Envoy is told of their ticket, which is then nobody's."""
    state = redis.Redis(unix_socket_path=str(gateway.data_dir / "valkey.sock"))
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda number: leave_early(gateway, number), range(400)))

    def free() -> bool:
        leaders = [state.get(name) for name in state.scan_iter(FLIGHTS)]
        return all(state.exists("gw:cache:{team:team-a}:left:" + leader.decode()) for leader in leaders if leader)

    wait_until(free, 5, "every flight to be free, long before it ends")
    began = time.monotonic()
    for number in range(0, 400, 20):
        body = ask(f"question {number}", temperature=0)
        assert gateway.http.post("/v1/chat/completions", json=body, headers=bearer()).status_code == 200
    assert time.monotonic() - began < 20
