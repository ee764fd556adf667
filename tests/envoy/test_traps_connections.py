"""What other gateways got wrong in public, through a real Envoy: stale connections, silence, compression, waits."""

import gzip
import json
import socket
import time
import zlib
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import brotli
import openai
import pytest

from tests.envoy.harness import MIB, Gateway, ask, bearer
from tests.envoy.scripted import CLOSE, RESET, Script, Scripted, event, stream, whole
from tests.envoy.traps import BOTH, FORMATS, SAID, as_json, chunk, config, cut, streamed

__all__ = ["config"]

CHUNKED = b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
MODELS = pytest.mark.parametrize("model", FORMATS)


def once_then_gone(step: str, body: bytes) -> Script:
    """Answers the first request of a connection, and closes on the second: it had just become too old."""
    return lambda call: [whole(body)] if call.nth == 0 else [step]


@MODELS
@pytest.mark.parametrize("step", [CLOSE, RESET])
def test_trap_35_a_connection_that_went_stale_costs_no_request(
    gateway: Gateway, scripted: Scripted, model: str, step: str
) -> None:
    body = next(body for name, body, _ in BOTH.values() if name == model)
    scripted.does(once_then_gone(step, body))
    answers = [gateway.client().chat.completions.create(**ask("hi", model)) for _ in range(6)]
    assert {answer.choices[0].message.content for answer in answers} == {SAID}
    assert len(scripted.calls) > len(answers), "some met a stale connection"
    attempts = [(answer.model_extra or {})["gateway_metadata"]["attempts"] for answer in answers]
    assert max(attempts) == 2
    row = gateway.row((answers[attempts.index(2)].model_extra or {})["gateway_metadata"]["request_id"])
    assert (row["status"], row["attempts"], row["provider_used"]) == ("success", 2, f"s-{model}")
    assert row["routing_decision"] == "pinned"


@MODELS
def test_trap_35_a_provider_that_always_hangs_up_is_asked_twice_and_no_more(
    gateway: Gateway, scripted: Scripted, model: str
) -> None:
    scripted.says(RESET)
    with pytest.raises(openai.InternalServerError) as caught:
        gateway.client().chat.completions.create(**ask("hi", model))
    assert (caught.value.status_code, caught.value.code, len(scripted.calls)) == (502, "provider_error", 2)


@MODELS
def test_an_answer_before_the_body_was_read_is_one(gateway: Gateway, scripted: Scripted, model: str) -> None:
    """And what of the body the provider has yet to read does not spoil its connection for the next request."""
    scripted.says(whole(next(body for name, body, _ in BOTH.values() if name == model)), early=True)
    for _ in range(3):
        answer = gateway.client().chat.completions.create(**ask("x" * (4 * MIB), model))
        assert answer.choices[0].message.content == SAID
        metadata = (answer.model_extra or {})["gateway_metadata"]
        assert (metadata["attempts"], gateway.row(metadata["request_id"])["status"]) == (1, "success")


@MODELS
@pytest.mark.parametrize("status", [500, 529, 429, 401])
def test_trap_21_an_answer_is_never_asked_for_again_at_the_same_provider(
    gateway: Gateway, scripted: Scripted, model: str, status: int
) -> None:
    scripted.says(whole(b"{}", status=status))
    with pytest.raises(openai.APIStatusError):
        gateway.client().chat.completions.create(**ask("hi", model))
    assert len(scripted.calls) == 1


@MODELS
def test_trap_27_silence_is_not_asked_for_twice(gateway: Gateway, scripted: Scripted, model: str) -> None:
    scripted.says(6.0)
    with pytest.raises(openai.InternalServerError) as caught:
        gateway.client().chat.completions.create(**ask("hi", model))
    assert (caught.value.status_code, caught.value.code, len(scripted.calls)) == (504, "provider_timeout", 1)


def test_trap_35_no_second_attempt_for_those_who_want_one(gateway: Gateway, scripted: Scripted) -> None:
    scripted.says(RESET)
    with pytest.raises(openai.InternalServerError):
        gateway.client().chat.completions.create(**ask("hi", "openai"), metadata={"fallback": "false"})
    assert len(scripted.calls) == 1


ENCODED: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "br": brotli.compress, "deflate": zlib.compress}


@MODELS
@pytest.mark.parametrize("encoding", ENCODED)
def test_trap_29_compressed_although_nobody_asked(
    gateway: Gateway, scripted: Scripted, model: str, encoding: str
) -> None:
    encode = ENCODED[encoding]
    _, body, events = next(both for both in BOTH.values() if both[0] == model)
    headers = {"content_encoding": encoding}
    scripted.does(
        lambda call: stream(*cut(encode(events), 9), **headers) if streamed(call) else [whole(encode(body), **headers)]
    )
    create = gateway.client().chat.completions.with_raw_response.create
    answers = [create(**ask("hi", model)), create(**ask("hi", model), stream=True)]
    text = "".join(choice.delta.content or "" for chunk in answers[1].parse() for choice in chunk.choices)  # type: ignore[union-attr,misc]
    assert (answers[0].parse().choices[0].message.content, text) == (SAID, SAID)  # type: ignore[union-attr]
    assert not [answer for answer in answers if "content-encoding" in answer.headers]
    rows = [gateway.row(answer.headers["x-gateway-request-id"]) for answer in answers]
    assert [(row["input_tokens"], row["estimated"]) for row in rows] == [(100, False)] * 2


@MODELS
@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("stream_", [False, True])
def test_trap_29_a_compressed_error_is_read(
    gateway: Gateway, scripted: Scripted, model: str, encoding: str, stream_: bool
) -> None:
    said = as_json({"type": "error", "error": {"type": "invalid_request_error", "message": "Prompt is too long"}})
    scripted.says(whole(ENCODED[encoding](said), status=400, content_encoding=encoding))
    with pytest.raises(openai.BadRequestError) as caught:
        gateway.client().chat.completions.create(**ask("hi", model), stream=stream_)
    assert (caught.value.code, caught.value.message.count("Prompt is too long")) == ("context_length_exceeded", 1)
    assert "content-encoding" not in caught.value.response.headers


@MODELS
@pytest.mark.parametrize("stream_", [False, True])
def test_trap_29_an_encoding_nobody_knows_is_an_error_at_once(
    gateway: Gateway, scripted: Scripted, model: str, stream_: bool
) -> None:
    answer = (
        stream(b"(\xb5/\xfd", content_encoding="zstd") if stream_ else [whole(b"(\xb5/\xfd", content_encoding="zstd")]
    )
    scripted.says(*answer)
    with pytest.raises(openai.InternalServerError) as caught:
        gateway.client().chat.completions.create(**ask("hi", model), stream=stream_)
    assert caught.value.code == "provider_error"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, (7, 7)),
        ({"retry_after": lambda: formatdate(time.time() + 90, usegmt=True)}, (80, 91)),
        ({"retry_after_ms": "2500", "retry_after": "60"}, (3, 3)),
        ({"retry_after": "86400000"}, (3600, 3600)),
        ({}, (1, 1)),
    ],
    ids=["seconds", "date", "milliseconds", "capped", "unsaid"],
)
@MODELS
def test_trap_26_how_long_to_wait_is_told(
    gateway: Gateway, scripted: Scripted, model: str, headers: dict[str, Any], seconds: tuple[int, int]
) -> None:
    values = {name: value() if callable(value) else value for name, value in headers.items()}
    scripted.says(whole(b"{}", status=429, **values))
    while not scripted.calls:  # a provider that said so is left alone for a moment
        with pytest.raises(openai.RateLimitError) as caught:
            gateway.client().chat.completions.create(**ask("hi", model))
    least, most = seconds
    assert least <= int(caught.value.response.headers["retry-after"]) <= most


@MODELS
@pytest.mark.parametrize("status", [429, 503])
def test_a_provider_behind_an_envoy_does_not_forbid_ours_to_ask_another(
    gateway: Gateway, scripted: Scripted, model: str, status: int
) -> None:
    """Its rate limit filter says so with each 429, and Envoy believes it of whoever says it."""
    scripted.says(whole(b"{}", status=status, x_envoy_ratelimited="true"))
    while not scripted.calls:  # as above
        answer = gateway.client().chat.completions.create(**ask("hi", f"{model}-ha"))
    assert answer.model == "gpt-b"


@MODELS
def test_trap_36_a_stream_may_be_silent_for_a_while(gateway: Gateway, scripted: Scripted, model: str) -> None:
    """Longer than the deadline for the first byte, shorter than `timeouts.idle`; before the first word and after it."""
    _, _, events = next(both for both in BOTH.values() if both[0] == model)
    head, *pieces, end = stream(*cut(events, len(events) // 2))
    scripted.says(head, 2.5, *[step for piece in pieces for step in (piece, 0.1)], end)
    chunks = list(gateway.client().chat.completions.create(**ask("hi", model), stream=True))
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == SAID


MEGABYTE = "x" * (1024 * 1024 - 1024)
ENDLESS = {
    "openai": chunk({"content": MEGABYTE}),
    "anthropic": event({"type": "content_block_delta", "delta": {"type": "text_delta", "text": MEGABYTE}}),
}


@pytest.mark.parametrize(("model", "piece"), ENDLESS.items(), ids=ENDLESS)
def test_trap_39_a_stream_has_an_end(gateway: Gateway, scripted: Scripted, model: str, piece: bytes) -> None:
    head, *pieces, end = stream(*[piece] * 70)
    scripted.says(head, *[step for each in pieces for step in (each, 0.01)], end)
    asked = ask("hi", model, stream=True)
    received, tail = 0, b""
    with gateway.http.stream("POST", "/v1/chat/completions", json=asked, headers=bearer()) as answer:
        for received_piece in answer.iter_raw():
            received += len(received_piece)
            tail = (tail + received_piece)[-400:]
    assert 32 * 1024 * 1024 < received < 66 * 1024 * 1024
    assert b'"error"' in tail
    assert b"[DONE]" not in tail


TOO_LARGE = {"sized": whole(b" " * (65 << 20)), "chunked": CHUNKED + (b"100000\r\n%b\r\n" % (b" " * (1 << 20))) * 65}


@MODELS
@pytest.mark.parametrize("answer", TOO_LARGE.values(), ids=TOO_LARGE)
def test_trap_39_an_answer_that_cannot_be_held_names_the_bound(
    gateway: Gateway, scripted: Scripted, model: str, answer: bytes
) -> None:
    scripted.says(answer)
    told = gateway.http.post("/v1/chat/completions", json=ask("hi", model), headers=bearer())
    assert (told.status_code, told.json()["error"]["code"]) == (502, "provider_error")
    assert "larger than 64 MiB" in told.json()["error"]["message"]
    row = gateway.row(told.headers["x-gateway-request-id"])
    assert (row["status"], row["error_code"], row["http_status"]) == ("failed", "provider_error", 502)


@MODELS
def test_trap_39_one_that_says_so_first_is_given_by_another(gateway: Gateway, scripted: Scripted, model: str) -> None:
    scripted.says(TOO_LARGE["sized"])
    answer = gateway.client().chat.completions.create(**ask("hi", f"{model}-ha"))
    assert (answer.model, len(scripted.calls)) == ("gpt-b", 1)


@MODELS
def test_a_proxy_of_old_in_front_is_answered(gateway: Gateway, scripted: Scripted, model: str) -> None:
    """HTTP/1.0, which nginx and HAProxy speak unless told otherwise: an answer ends with its connection."""
    _, body, events = next(both for both in BOTH.values() if both[0] == model)
    scripted.does(lambda call: stream(events) if streamed(call) else [whole(body)])
    key = bearer()["authorization"]
    for wanted, end in ((False, b"}"), (True, b"data: [DONE]\n\n")):
        asked = json.dumps(ask("hi", model, stream=wanted))
        head = f"POST /v1/chat/completions HTTP/1.0\r\nauthorization: {key}\r\ncontent-length: {len(asked)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
            client.sendall((head + asked).encode())
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
        assert SAID.encode() in answer
        assert answer.endswith(end)
