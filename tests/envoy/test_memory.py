"""`listen.max_memory`: new requests are refused before the system would kill Envoy; the rest goes on."""

import contextlib
import re
import threading

import httpx
import openai
import pytest

from tests.envoy.harness import Config, Gateway, Simulator, ask, free_port, marker, wait_until

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def ops_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def config(config: Config, ops_port: int) -> Config:
    config["listen"] |= {"max_memory": "200Mi", "ops": {"host": "127.0.0.1", "port": ops_port}}
    return config


def test_new_requests_are_refused_before_memory_ends(gateway: Gateway, primary: Simulator, ops_port: int) -> None:
    ops = f"http://127.0.0.1:{ops_port}"
    held = ask("x" * (20 * MIB) + marker(hang="before_headers"))
    client = gateway.client().with_options(max_retries=0)
    refused: list[openai.InternalServerError] = []

    def full() -> bool:
        try:
            client.chat.completions.create(**ask("hi"))
        except openai.InternalServerError as error:
            refused.append(error)
        return bool(refused)

    assert not full()
    waiting: list[tuple[openai.OpenAI, threading.Thread]] = []
    try:
        for _ in range(12):
            one = gateway.client().with_options(max_retries=0)
            waiting.append((one, threading.Thread(target=hold, args=(one, held), daemon=True)))
            waiting[-1][1].start()
            with contextlib.suppress(AssertionError):
                wait_until(full, 0.4, "a refusal")
                break
        assert refused, "all were taken"
        assert (refused[0].status_code, refused[0].code) == (503, "overloaded")
        assert refused[0].response.headers["retry-after"] == "1"
        assert httpx.get(f"{ops}/livez").status_code == 200
        assert httpx.get(f"{ops}/readyz").status_code == 200
        assert all(thread.is_alive() for _, thread in waiting[:3]), "what was open is so no more"
    finally:
        for one, _ in waiting:
            one.close()

    def passes() -> bool:
        refused.clear()
        return not full()

    wait_until(passes, 20, "memory given back")
    counted = re.search(r"^gateway_overload_refusals_total (\d+)$", httpx.get(f"{ops}/metrics").text, re.M)
    assert counted is not None
    assert int(counted[1]) > 0


def hold(client: openai.OpenAI, request: Config) -> None:
    """Ask for what nobody answers."""
    with contextlib.suppress(openai.APIError):
        client.chat.completions.create(**request)
