"""The same requests over both transports, through a real Envoy; all other tests here run over the default one, lean."""

import concurrent.futures
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.envoy.harness import Config, Gateway, Simulator, ask, at_once, impatient, marker, raw_post, wait_until

MIB = 1024 * 1024


@pytest.fixture(scope="module", params=["lean", "grpcio"])
def config(new_config: Callable[[], Config], request: pytest.FixtureRequest) -> Config:
    return impatient(new_config()) | {"transport": request.param}


@pytest.mark.parametrize("model", ["gpt", "claude", "gpt-ha", "dead-ha"])
def test_whole_answers_and_streams(gateway: Gateway, model: str) -> None:
    create = gateway.client().chat.completions.create
    whole = create(**ask("Tell me a story", model))
    chunks = list(create(**ask("Tell me a story", model), stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert gateway.row(whole.model_extra["gateway_metadata"]["request_id"])["status"] in ("success", "fallback")


def test_large_bodies_beside_small_ones(gateway: Gateway) -> None:
    create = gateway.client().chat.completions.create
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        large = [pool.submit(create, **ask("x" * (10 * MIB), "claude"), max_tokens=5) for _ in range(3)]
        small = [pool.submit(create, **ask("hi", "claude")) for _ in range(9)]
        assert all(future.result().choices[0].message.content for future in large + small)


def test_many_streams_through_the_workers(gateway: Gateway) -> None:
    def text(number: int) -> str:
        chunks = gateway.client().chat.completions.create(**ask(f"Story {number}", "claude"), stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        together = list(pool.map(text, range(60)))
    assert together[7] == text(7)
    assert all(together)


def test_refusals(gateway: Gateway) -> None:
    with pytest.raises(openai.AuthenticationError):
        gateway.client("sk-wrong").chat.completions.create(**ask("hi"))
    with pytest.raises(openai.BadRequestError):
        gateway.client().chat.completions.create(**ask("hi"), temperature="hot")
    assert gateway.http.get("/v1/models", headers={"authorization": "Bearer sk-team"}).status_code == 200


@pytest.mark.parametrize("model", ["gpt", "claude"])
def test_clients_that_leave(gateway: Gateway, primary: Simulator, model: str) -> None:
    text = f"A long story {marker(chunks=60, chunk_interval_ms=50, first_byte_ms=300)}"
    for _ in range(10):
        with raw_post(gateway, ask(text, model, stream=True)) as connection:
            time.sleep(0.02)
            connection.shutdown(socket.SHUT_RDWR)
    assert gateway.client().chat.completions.create(**ask("on", model)).choices[0].message.content
    assert gateway.log().count("call failed") == 0
    assert gateway.log().count("exchange failed") == 0


def test_a_draining_worker_finishes_what_it_has(gateway: Gateway, primary: Simulator) -> None:
    """Its open requests' next attempts too, while new requests go to the other worker."""

    def answered(text: str, model: str = "claude", *, stream: bool = False) -> bool:
        said: Any = gateway.client().chat.completions.create(**ask(text, model, stream=stream))
        return bool(list(said) if stream else said.choices[0].message.content)

    slow = ("claude", f"slow {marker(first_byte_ms=1700)}", False)
    # For longer than the deadline. Of a stream's answer the worker hears nothing any more.
    hangs = f"hangs {marker(fail_provider='openai', hang='before_headers')}"
    fails = [("gpt-ha", hangs, stream) for stream in (False, True)]
    (worker,) = gateway.processes("gateway worker 0")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        running = [
            pool.submit(answered, text, model, stream=stream) for model, text, stream in [slow, slow, *fails] * 4
        ]
        wait_until(lambda: primary.total("requests") >= 16, 10, "all of them to be sent")
        worker.send_signal(signal.SIGTERM)
        assert all(answered("meanwhile") for _ in range(8))
        assert worker.is_running(), "it ended before the attempts that it was to wait for"
        assert all(future.result() for future in running)
        wait_until(
            lambda: [p for p in gateway.processes("gateway worker 0") if p.pid != worker.pid], 20, "a new worker"
        )
    wait_until(lambda: all(at_once(lambda: answered("again"))), 10, "both workers to answer")
