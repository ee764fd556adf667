"""HTTPS providers: verified against the system's authorities, and spoken to in HTTP/2 where they offer it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import trustme

from tests.envoy.goes_away import GoesAway
from tests.envoy.harness import Config, Gateway, ask, bearer, free_port, running, wait_until

# An ASGI provider that answers with the HTTP version it was asked in.
SERVER = """
import asyncio, json, sys
from hypercorn.asyncio import serve
from hypercorn.config import Config

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    asked = json.loads(body)
    authorization = dict(scope["headers"]).get(b"authorization", b"").decode()
    text = {"version": scope["http_version"], "authorization": authorization}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    base = {"id": "c", "created": 1, "model": "m"}
    if asked.get("stream"):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        delta = {"index": 0, "delta": {"role": "assistant", "content": json.dumps(text)}, "finish_reason": "stop"}
        chunk = base | {"object": "chat.completion.chunk", "choices": [delta]}
        last = base | {"object": "chat.completion.chunk", "choices": [], "usage": usage}
        for event in (json.dumps(chunk), json.dumps(last), "[DONE]"):
            await send({"type": "http.response.body", "body": f"data: {event}\\n\\n".encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    message = {"index": 0, "message": {"role": "assistant", "content": json.dumps(text)}, "finish_reason": "stop"}
    answer = json.dumps(base | {"object": "chat.completion", "choices": [message], "usage": usage}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": answer})

config = Config()
config.bind = [f"localhost:{sys.argv[1]}"]
config.certfile, config.keyfile = sys.argv[2], sys.argv[3]
config.alpn_protocols = sys.argv[4].split(",")
config.keep_alive_max_requests = int(sys.argv[5])  # then `connection: close`; in HTTP/2 GOAWAY with a request in flight
config.accesslog = None
asyncio.run(serve(app, config))
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ca")
    trusted, stranger = trustme.CA(), trustme.CA()
    files = {"ca": folder / "ca.pem", "script": folder / "server.py"}
    trusted.cert_pem.write_to_path(files["ca"])
    files["script"].write_text(SERVER)
    for name, certificate in (
        ("good", trusted.issue_cert("localhost")),
        ("stranger", stranger.issue_cert("localhost")),
        ("other", trusted.issue_cert("elsewhere.example")),
    ):
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        files[name] = folder / f"{name}.pem"
    return files


@pytest.fixture(scope="module")
def goes_away(authority: dict[str, Path]) -> Iterator[GoesAway]:
    provider = GoesAway(authority["good"])
    yield provider
    provider.stop()


@pytest.fixture(scope="module")
def config(config: Config, authority: dict[str, Path], goes_away: GoesAway) -> Iterator[Config]:
    servers = []
    for name, certificate, alpn, kept_alive in (
        ("h2", "good", "h2,http/1.1", 1000),
        ("h1", "good", "http/1.1", 5),
        ("goaway", "good", "h2", 5),
        ("stranger", "stranger", "h2,http/1.1", 1000),
        ("other", "other", "h2,http/1.1", 1000),
    ):
        port = free_port()
        pem = authority[certificate]
        arguments = [str(port), str(pem), str(pem.with_suffix(".key")), alpn, str(kept_alive)]
        servers.append(subprocess.Popen([sys.executable, str(authority["script"]), *arguments]))
        base_url = f"https://localhost:{port}/v1"
        config["providers"][name] = {"format": "openai", "base_url": base_url, "credential": "sk-tls"}
        config["models"].append({"name": name, "provider": name})
        wait_until(lambda port=port: connects(port), 15, f"the {name} server")
    config["providers"]["leaver"] = {"format": "openai", "base_url": goes_away.url}
    config["models"].append({"name": "leaver", "provider": "leaver"})
    config["equivalents"] += [{"models": ["stranger", "h2"]}, {"models": ["goaway", "gpt"]}]
    yield config
    for server in servers:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def gateway(config: Config, authority: dict[str, Path]) -> Iterator[Gateway]:
    with running(config, {"SSL_CERT_FILE": str(authority["ca"])}) as gateway:
        yield gateway


def connects(port: int) -> bool:
    async def attempt() -> bool:
        try:
            _, writer = await asyncio.open_connection("localhost", port)
        except OSError:
            return False
        writer.close()
        return True

    return asyncio.run(attempt())


@pytest.mark.parametrize(("model", "version"), [("h2", "2"), ("h1", "1.1")])
def test_the_best_version_the_provider_offers(gateway: Gateway, model: str, version: str) -> None:
    answer = gateway.client().chat.completions.create(**ask("hi", model))
    said = json.loads(answer.choices[0].message.content or "")
    assert said == {"version": version, "authorization": "Bearer sk-tls"}
    chunks: Any = list(gateway.client().chat.completions.create(**ask("hi", model), stream=True))
    assert json.loads(chunks[0].choices[0].delta.content)["version"] == version
    assert len(chunks) == 1, "the usage chunk is hidden"


def test_a_connection_that_a_provider_closes_after_a_few_requests_costs_none(gateway: Gateway) -> None:
    for _ in range(24):
        assert gateway.client().chat.completions.create(**ask("hi", "h1")).model == "h1"


def test_a_connection_that_goes_away_under_a_request_costs_an_attempt(gateway: Gateway) -> None:
    models = [gateway.client().chat.completions.create(**ask("hi", "goaway")).model for _ in range(24)]
    assert set(models) == {"goaway", "gpt"}


def test_trap_35_a_request_that_meets_goaway_is_sent_again_though_nobody_else_can_answer(
    gateway: Gateway, goes_away: GoesAway
) -> None:
    answers = [gateway.client().chat.completions.create(**ask("hi", "leaver")) for _ in range(8)]
    assert {answer.choices[0].message.content for answer in answers} == {"Hello"}
    assert goes_away.refused > 0
    attempts = [(answer.model_extra or {})["gateway_metadata"]["attempts"] for answer in answers]
    assert sum(attempts) == len(answers) + goes_away.refused


def test_a_certificate_of_another_host_is_refused(gateway: Gateway) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        gateway.client().chat.completions.create(**ask("hi", "other"))
    assert caught.value.code == "provider_error"


def test_an_unknown_authority_is_refused_and_fails_over(gateway: Gateway) -> None:
    answer = gateway.client().chat.completions.create(**ask("hi", "stranger"))
    assert answer.model == "h2"


def test_a_stream_that_is_over_with_its_headers_ends_with_an_error_event(gateway: Gateway) -> None:
    raw = gateway.http.post("/v1/chat/completions", json=ask("hi", "leaver", stream=True), headers=bearer())
    said = json.loads(raw.text.removeprefix("data: "))
    assert (raw.status_code, said["error"]["code"]) == (200, "provider_error")
    assert gateway.row(raw.headers["x-gateway-request-id"])["status"] == "failed"
