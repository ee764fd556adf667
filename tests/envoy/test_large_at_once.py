"""More large requests at once than a worker has room for: some are told to try again, nothing else suffers."""

import openai
import pytest

from tests.envoy.harness import MIB, OTHER_KEY, Gateway, Simulator, ask, uploads, wait_until

MORE = 16  # of 30 MiB, than one team has room for: two in each of both workers


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
