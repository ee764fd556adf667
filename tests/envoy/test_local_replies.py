"""What Envoy refuses or gives up on by itself is told as any other error, not by a connection that closes."""

import contextlib
import itertools
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.envoy.harness import FORMATS, MODEL_OF, Config, Gateway, ask, bearer, impatient, marker
from tests.envoy.test_streams import torn

Rest = Callable[[socket.socket], None]  # sends what is left of a request
CHAT = "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer sk-team\r\n"
REFUSED = {
    "headers of 70 kB": (f"{CHAT}x: {'a' * 70_000}\r\ncontent-length: 2\r\n\r\n{{}}", 431, "headers_too_large"),
    "120 headers": (CHAT + "".join(f"x-{n}: 1\r\n" for n in range(120)) + "\r\n", 431, "headers_too_large"),
    "a length and chunks": (
        f"{CHAT}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "invalid_request_error",
    ),
    "two lengths": (f"{CHAT}content-length: 5\r\ncontent-length: 6\r\n\r\nhello", 400, "invalid_request_error"),
    "no number as length": (f"{CHAT}content-length: x\r\n\r\nhello", 400, "invalid_request_error"),
    "an encoding of the transfer": (f"{CHAT}transfer-encoding: gzip\r\n\r\n", 400, "invalid_request_error"),
    "no header": (f"{CHAT}no header\r\n\r\n", 400, "invalid_request_error"),
    "no host": ("GET /v1/models HTTP/1.1\r\n\r\n", 400, "invalid_request_error"),
    "TLS": ("\x16\x03\x01\x02\r\n\r\n", 400, "invalid_request_error"),
    "an upgrade": (f"{CHAT}connection: upgrade\r\nupgrade: websocket\r\n\r\n", 400, "invalid_request_error"),
    "a tunnel": ("CONNECT gateway:80 HTTP/1.1\r\nhost: gateway\r\n\r\n", 400, "invalid_request_error"),
    "no path": ("OPTIONS * HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n", 404, "not_found"),
}


@pytest.fixture(scope="module")
def config(config: Config) -> Config:
    config["timeouts"]["request"] = "10s"
    return impatient(config)


def answer_to(gateway: Gateway, request: str, rest: Rest = lambda client: None) -> tuple[int, dict[str, str], bytes]:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as client:
        client.sendall(request.encode())
        rest(client)
        head, _, body = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_that_envoy_refuses(gateway: Gateway, name: str) -> None:
    request, status, code = REFUSED[name]
    told, headers, body = answer_to(gateway, request)
    assert (told, headers["content-type"]) == (status, "application/json")
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["type"]) == (code, "invalid_request_error")


def test_the_sdk_raises_what_it_is(gateway: Gateway) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        gateway.client().chat.completions.create(**ask("hi"), extra_headers={"x-large": "a" * 70_000})
    assert (caught.value.status_code, caught.value.code) == (431, "headers_too_large")


def drop_by_drop(client: socket.socket) -> None:
    """Something moves, so that it is not idle."""
    client.settimeout(0.2)
    while True:
        with contextlib.suppress(TimeoutError):
            client.recv(1, socket.MSG_PEEK)
            break
        client.sendall(b" ")
    client.settimeout(30)


@pytest.mark.parametrize("rest", [lambda client: None, drop_by_drop], ids=["does not come", "comes drop by drop"])
def test_a_body_that_does_not_come_is_a_408_with_a_row(gateway: Gateway, rest: Rest) -> None:
    began = time.time()
    status, headers, body = answer_to(gateway, f"{CHAT}content-length: 200000\r\n\r\n{{", rest)
    assert (status, json.loads(body)["error"]["code"]) == (408, "request_timeout")
    row = gateway.new_row(began, "refused")
    assert (row["request_id"], row["http_status"]) == (headers["x-gateway-request-id"], 408)
    assert (row["team_id"], row["error_code"]) == ("team-a", "request_timeout")


def test_a_stream_that_falls_silent_is_torn_for_the_client(gateway: Gateway) -> None:
    torn(gateway, "gpt", {"hang": "mid_stream"})


def stopped(gateway: Gateway, model: str, fault: dict[str, str], stream: bool) -> tuple[str, dict[str, Any]]:
    """What the client is told, `torn` where its stream has no end, and the row."""
    asked = ask(f"A long story {marker(**fault)}", model, stream=stream)
    with gateway.http.stream("POST", "/v1/chat/completions", json=asked, headers=bearer()) as answer:
        try:
            told = json.loads(answer.read())["error"]["code"]
        except httpx.RemoteProtocolError:
            told = "torn"
    return told, gateway.row(answer.headers["x-gateway-request-id"])


@pytest.mark.usefixtures("primary")
def test_an_answer_that_stops_is_an_error_with_a_row(gateway: Gateway) -> None:
    """Behind its headers or in its middle, by a reset or by silence, of every format, whole or not: all at once."""
    faults = ({"reset": "after_headers"}, {"hang": "after_headers"}, {"hang": "mid_stream"})
    cases = list(itertools.product((MODEL_OF[name] for name in FORMATS), faults, (False, True)))
    with ThreadPoolExecutor(len(cases)) as pool:
        found = list(pool.map(lambda case: stopped(gateway, *case), cases))
    for (model, fault, stream), (told, row) in zip(cases, found, strict=True):
        code = "provider_timeout" if "hang" in fault else "provider_error"
        assert (told, row["error_code"]) == ("torn" if stream else code, code), (model, fault)
        assert (row["status"], row["model_used"], row["attempts"]) == ("failed", model, 1)
        assert (row["output_tokens"] > 0) >= (stream and "mid_stream" in fault.values())


def test_a_body_that_is_no_http_is_refused_in_its_row(gateway: Gateway) -> None:
    """Envoy hangs up at once: before the worker, who is asked about every answer, can let the 400 pass."""
    began = time.time()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as client:
        client.sendall(f"{CHAT}transfer-encoding: chunked\r\n\r\n1\r\n{{\r\nno length\r\n".encode())
        assert client.recv(65536) == b""
    row = gateway.new_row(began, "refused")
    assert (row["team_id"], row["http_status"], row["error_code"]) == ("team-a", 400, "invalid_request_error")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/teams", "/"])
def test_headers_of_ours_from_a_client_take_no_request_past_the_worker(gateway: Gateway, path: str) -> None:
    """Which filters a request meets is decided by the route of its headers as they came."""
    forged = {"x-gw-model": "gpt", "x-gw-cluster": "provider-openai", "x-gw-team": "team-a"}
    for headers in (forged, forged | bearer("sk-wrong")):
        answer = httpx.post(gateway.url + path, json=ask("hi"), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
