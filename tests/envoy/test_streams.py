"""Streams that go wrong, and bodies of every size: a clear outcome each, Envoy alive, one audit row each."""

import json
import socket
import time
from typing import Any

import httpx
import openai
import pytest

from tests.envoy.harness import (
    FORMATS,
    MODEL_OF,
    TEAM_KEY,
    Gateway,
    Simulator,
    ask,
    bearer,
    marker,
    raw_post,
    wait_until,
)

MODELS = [MODEL_OF[name] for name in FORMATS]
MIB = 1024 * 1024


def stream_text(gateway: Gateway, text: str, model: str) -> tuple[str, httpx.Headers]:
    raw = gateway.client().chat.completions.with_raw_response.create(**ask(text, model), stream=True)
    chunks: Any = list(raw.parse())
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks), raw.headers


def reference(gateway: Gateway, model: str) -> str:
    return gateway.client().chat.completions.create(**ask("A long story", model)).choices[0].message.content or ""


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "fault",
    [
        {"crlf": True},
        {"line_end": "cr"},
        {"one_byte_chunks": True},
        {"split_utf8": True},
        {"gzip": True},
        {"chunk_interval_ms": 5},
    ],
    ids=str,
)
def test_odd_bytes_are_the_same_answer(gateway: Gateway, primary: Simulator, model: str, fault: dict[str, Any]) -> None:
    text, headers = stream_text(gateway, f"A long story {marker(**fault)}", model)
    assert text == reference(gateway, model)
    assert "content-encoding" not in headers
    row = gateway.row(headers["x-gateway-request-id"])
    assert row["status"] == "success"
    assert row["output_tokens"] == primary.recent()[-2]["completion_tokens"]
    assert (row["finish_reason"], row["estimated"]) == ("stop", False)


@pytest.mark.parametrize("fault", [{"one_byte_chunks": True}, {"crlf": True}, {"chunk_interval_ms": 5}], ids=str)
def test_a_client_that_asks_for_usage_gets_every_byte(
    gateway: Gateway, primary: Simulator, fault: dict[str, Any]
) -> None:
    """Nothing is hidden then, so Envoy looks at what passes without holding any of it back."""
    asked = ask(f"A long story {marker(**fault)}", stream=True, stream_options={"include_usage": True})
    answer = gateway.http.post("/v1/chat/completions", json=asked, headers=bearer())
    assert '"error"' not in answer.text
    assert answer.text.rstrip().endswith("data: [DONE]")
    assert gateway.row(answer.headers["x-gateway-request-id"])["finish_reason"] == "stop"


@pytest.mark.parametrize("model", MODELS)
def test_gzip_although_asked_not_to_whole(gateway: Gateway, primary: Simulator, model: str) -> None:
    answer = gateway.client().chat.completions.create(**ask(f"A long story {marker(gzip='true')}", model))
    assert answer.choices[0].message.content == reference(gateway, model)


def gzipped_error(gateway: Gateway, primary: Simulator, model: str, status: int) -> None:
    primary.faults({"message": "maximum context length", "gzip": True, "status": status})
    answer = gateway.http.post("/v1/chat/completions", json=ask("hi", model), headers=bearer())
    assert answer.status_code == {503: 502}.get(status, status)
    assert answer.json()["error"]["message"]
    assert "content-encoding" not in answer.headers
    assert int(answer.headers["content-length"]) == len(answer.content)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("status", [400, 503])
def test_a_gzipped_error_is_read(gateway: Gateway, primary: Simulator, model: str, status: int) -> None:
    gzipped_error(gateway, primary, model, status)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_whole_is_passed_on_before_more_comes(gateway: Gateway, primary: Simulator, model: str) -> None:
    """The provider says eight pieces and then nothing: a gateway that collects would show none of them."""
    text = f"A long story {marker(hang='mid_stream', at=8, chunks=60)}"
    with raw_post(gateway, ask(text, model, stream=True)) as connection:
        received = b""
        while received.count(b'"content":') < 8:
            received += connection.recv(65536)
            assert b'"error"' not in received


BREAKS_OFF = [
    *((fault, model) for fault in ({"error_in_stream": "true"}, {"end_mid_stream": True}) for model in MODELS),
    *(({"malformed_sse": "true"}, model) for model in ("claude", "gemini")),  # `gpt`: see test_same_format
]


@pytest.mark.parametrize(("fault", "model"), BREAKS_OFF, ids=str)
def test_an_answer_that_breaks_off_ends_with_an_error_event(
    gateway: Gateway, primary: Simulator, model: str, fault: dict[str, Any]
) -> None:
    """An error inside the stream, what is no event, or a clean end too early: an error, no `[DONE]`, no finish."""
    raw = gateway.http.post(
        "/v1/chat/completions", json=ask(f"A long story {marker(**fault)}", model, stream=True), headers=bearer()
    )
    lines = [line for line in raw.text.splitlines() if line.startswith("data:")]
    assert json.loads(lines[-1].removeprefix("data:"))["error"]["message"]
    assert "[DONE]" not in raw.text
    assert '"finish_reason":"stop"' not in raw.text.replace(" ", "")
    row = gateway.row(raw.headers["x-gateway-request-id"])
    assert row["status"] == "failed"
    with pytest.raises(openai.APIError):
        stream_text(gateway, f"A long story {marker(**fault)}", model)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("fault", [{"reset": "mid_stream"}, {"close_mid_stream": True}], ids=str)
def test_a_stream_that_is_torn_is_torn_for_the_client(
    gateway: Gateway, primary: Simulator, model: str, fault: dict[str, Any]
) -> None:
    torn(gateway, model, fault)
    assert stream_text(gateway, "still alive", model)[0]


def torn(gateway: Gateway, model: str, fault: dict[str, Any]) -> None:
    """Ask for a stream that ends in the middle for this fault, and look at its row."""
    began = time.time()
    with pytest.raises(openai.APIConnectionError) as caught:
        stream_text(gateway, f"A long story {marker(**fault, chunk_interval_ms=20)}", model)
    assert not isinstance(caught.value, openai.APITimeoutError)
    row = gateway.new_row(began, "failed")
    assert row["estimated"]
    assert row["output_tokens"] > 0


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "fault", [{"reset": "mid_stream"}, {"close_mid_stream": True}, {"malformed_sse": True}], ids=str
)
def test_a_whole_answer_that_is_unreadable_is_a_502(
    gateway: Gateway, primary: Simulator, model: str, fault: dict[str, Any]
) -> None:
    began = time.time()
    with pytest.raises(openai.APIError) as caught:
        gateway.client().chat.completions.create(**ask(f"A long story {marker(**fault)}", model))
    assert getattr(caught.value, "status_code", 502) == 502
    assert gateway.new_row(began, "failed")["model_requested"] == model


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves(gateway: Gateway, primary: Simulator, model: str, stream: bool) -> None:
    for _ in range(3):  # complete ones teach the bytes of a token
        stream_text(gateway, "A long story", model)
    primary.reset()
    text = f"A long story {marker(chunks=60, chunk_interval_ms=50, first_byte_ms=300)}"
    began = time.time()
    with raw_post(gateway, ask(text, model, stream=stream)) as connection:
        if stream:
            received = b""
            while received.count(b"data:") < 12:
                received += connection.recv(65536)
        else:
            wait_until(lambda: primary.stats()["open"] == 1, 10, "the provider to be asked")
        connection.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: primary.total("aborted_by_client") == 1, 5, "the upstream request to be cancelled")
    row = gateway.new_row(began, "cancelled")
    assert row["estimated"], row
    if stream:
        served = primary.recent()[-1]["completion_tokens"]
        assert 0.5 * served <= row["output_tokens"] <= 1.5 * served


def test_a_client_that_leaves_before_its_body_is_whole_has_a_row(gateway: Gateway) -> None:
    began = time.time()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {TEAM_KEY}\r\n"
        "content-type: application/json\r\ncontent-length: 1000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(head.encode() + b'{"model": "gpt", "mess')
        time.sleep(0.2)

    row = gateway.new_row(began, "cancelled")
    assert (row["team_id"], row["output_tokens"]) == ("team-a", 0)


@pytest.mark.parametrize("model", MODELS)
def test_an_early_answer_before_the_body_was_read(gateway: Gateway, primary: Simulator, model: str) -> None:
    text = marker(early_answer="true", status=503) + "x" * (2 * MIB)
    with pytest.raises(openai.InternalServerError) as caught:
        gateway.client().chat.completions.create(**ask(text, model))
    row = gateway.row(caught.value.response.headers["x-gateway-request-id"])
    assert (row["status"], row["error_code"]) == ("failed", "provider_error")
    assert stream_text(gateway, "alive", model)[0]


@pytest.mark.parametrize("model", MODELS)
def test_ten_mebibytes(gateway: Gateway, primary: Simulator, model: str) -> None:
    answer = gateway.client().chat.completions.create(**ask("x" * (10 * MIB), model), max_tokens=5)
    assert answer.choices[0].message.content
    assert gateway.row(answer.model_extra["gateway_metadata"]["request_id"])["status"] == "success"


def test_ten_mebibytes_fail_over(gateway: Gateway, primary: Simulator, second: Simulator) -> None:
    text = marker(fail_provider="openai", status=503) + "x" * (10 * MIB)
    answer = gateway.client().chat.completions.create(**ask(text, "gpt-ha"), max_tokens=5)
    assert answer.model == "claude-b"


def body_of(size: int) -> bytes:
    head = b'{"model":"gpt","messages":[{"role":"user","content":"'
    return head + b"x" * (size - len(head) - 4) + b'"}]}'


@pytest.mark.parametrize("chunked", [False, True])
def test_thirty_two_mebibytes_and_one_byte(gateway: Gateway, chunked: bool) -> None:
    data = body_of(32 * MIB + 1)
    content: Any = (data[at : at + MIB] for at in range(0, len(data), MIB)) if chunked else data
    answer = gateway.http.post("/v1/chat/completions", content=content, headers=bearer())
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
    assert gateway.row(answer.headers["x-gateway-request-id"])["status"] == "refused"
    assert answer.headers["content-type"] == "application/json"


def test_thirty_two_mebibytes(gateway: Gateway, primary: Simulator) -> None:
    answer = gateway.http.post("/v1/chat/completions", content=body_of(32 * MIB), headers=bearer())
    assert answer.status_code == 200, answer.text


def test_half_a_million_values(gateway: Gateway, primary: Simulator) -> None:
    """What would hold up all others of its worker is refused before it is read; they go on."""
    parts = b'{"type":"text","text":"a"},' * 700_000
    content = b'{"model":"gpt","messages":[{"role":"user","content":[' + parts + b'{"type":"text","text":"b"}]}]}'
    answer = gateway.http.post("/v1/chat/completions", content=content, headers=bearer())
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
    assert answer.json()["error"]["message"] == "The request body has more than 500,000 JSON values."
    assert gateway.row(answer.headers["x-gateway-request-id"])["status"] == "refused"
    assert gateway.client().chat.completions.create(**ask("hi")).choices[0].message.content


@pytest.mark.parametrize("model", MODELS)
def test_a_gzipped_429_is_read(gateway: Gateway, primary: Simulator, model: str) -> None:
    """The last of this file: a provider that limits us is left alone for a while."""
    gzipped_error(gateway, primary, model, 429)
