"""More large requests at once than a worker has room for: some are told to try again, nothing else suffers."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import openai
import pytest

from tests.envoy.harness import OTHER_KEY, TEAM_KEY, Gateway, Simulator, ask, wait_until

MIB = 1024 * 1024
MORE = 16  # of 30 MiB, than one team has room for: two in each of both workers


@contextmanager
def uploads(gateway: Gateway, count: int) -> Iterator[list[socket.socket]]:
    """Requests of 30 MiB that have only begun."""
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {TEAM_KEY}\r\ncontent-length: {30 * MIB}\r\n\r\n{{"
    )
    with ExitStack() as open_ones:
        found = []
        for _ in range(count):
            one = open_ones.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
            one.settimeout(30)
            one.sendall(head.encode())
            found.append(one)
        yield found


def test_more_large_requests_than_there_is_room_for(gateway: Gateway, primary: Simulator) -> None:
    large, client = ask("x" * (10 * MIB)), gateway.client().with_options(max_retries=0)
    with uploads(gateway, 4 + MORE) as begun:
        refused: dict[int, bytes] = {}
        for one in begun:
            one.setblocking(False)

        def enough() -> bool:
            for at, one in enumerate(begun):
                try:
                    refused[at] = refused.get(at, b"") + one.recv(65536)
                except BlockingIOError:
                    continue
            return len(refused) >= MORE

        wait_until(enough, 10, "refusals")
        for answer in refused.values():
            assert answer.startswith(b"HTTP/1.1 503")
            assert b'"code":"overloaded"' in answer
            assert b"\r\nretry-after: 1\r\n" in answer
        with pytest.raises(openai.InternalServerError) as told:
            client.chat.completions.create(**large)
        assert (told.value.status_code, told.value.code) == (503, "overloaded")
        row = gateway.row(told.value.response.headers["x-gateway-request-id"])
        assert (row["status"], row["error_code"], row["cost_usd"]) == ("refused", "overloaded", 0)
        assert client.chat.completions.create(**ask("hi")).choices[0].message.content
        other = gateway.client(OTHER_KEY).with_options(max_retries=0)
        assert other.chat.completions.create(**large, max_tokens=5).choices, "one team takes all room"

    def passes() -> bool:
        try:
            return bool(client.chat.completions.create(**large, max_tokens=5).choices)
        except openai.InternalServerError:
            return False

    wait_until(passes, 10, "room")  # those who left gave their room back
