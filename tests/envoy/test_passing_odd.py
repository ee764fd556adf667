"""Answers that were to pass by Envoy alone and are not quite what was asked for: what is told, what is counted."""

import gzip
import json
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.envoy.harness import GATEWAY, Config, Gateway, ask, bearer, running, wait_until
from tests.envoy.scripted import CLOSE, Scripted, Step, event, stream, whole

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
MESSAGE = {"role": "assistant", "content": "Hi."}
BODY = {"choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}], "usage": USAGE}
ANSWER = json.dumps({"id": "c1", "object": "chat.completion", "created": 1, "model": "m", **BODY}).encode()
SAID = event({"choices": [{"index": 0, "delta": {"content": "Hi."}, "finish_reason": "stop"}]})
EVENTS = (SAID, event({"choices": [], "usage": USAGE}), b"data: [DONE]\n\n")
CHUNKED = b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
UNTIL_CLOSED = b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\n\r\n"


@pytest.fixture(scope="module")
def config(passing_config: Config) -> Config:
    return passing_config


def asked(gateway: Gateway, streamed: bool) -> tuple[Any, dict[str, Any]]:
    """The client's answer and its row."""
    raw = gateway.http.post("/v1/chat/completions", json=ask("hi", "odd", stream=streamed), headers=bearer())
    assert not [name for name in raw.headers if name.startswith(("x-gw-", "set-cookie"))]
    return raw, gateway.row(raw.headers["x-gateway-request-id"])


def typed(kind: str | None) -> bytes:
    plain = whole(ANSWER)
    return plain.replace(b"content-type: application/json\r\n", f"content-type: {kind}\r\n".encode() if kind else b"")


@pytest.mark.parametrize(
    "steps",
    [
        *(
            pytest.param([typed(kind)], id=str(kind))
            for kind in ("application/json; charset=utf-8", "application/json;charset=UTF-8", "Application/JSON", None)
        ),
        pytest.param([typed("text/plain")], id="text"),
        pytest.param([CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(ANSWER), ANSWER)], id="chunked"),
        pytest.param([UNTIL_CLOSED + ANSWER, CLOSE], id="until it is closed"),
        pytest.param([whole(gzip.compress(ANSWER), content_encoding="gzip")], id="gzip"),
        pytest.param([whole(ANSWER, content_encoding="Identity")], id="identity"),
        pytest.param([b"HTTP/1.1 103 Early\r\nlink: </a>\r\n\r\n" + whole(ANSWER)], id="hints"),
    ],
)
def test_however_it_says_so_an_answer_costs_what_it_says(
    gateway: Gateway, scripted: Scripted, steps: list[Step]
) -> None:
    scripted.says(*steps)
    raw, row = asked(gateway, False)
    assert raw.json()["choices"][0]["message"]["content"] == "Hi."
    assert (row["status"], row["estimated"], row["input_tokens"], row["output_tokens"]) == ("success", False, 3, 2)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([CHUNKED + b"0\r\n\r\n"], id="nothing, in chunks"),
        pytest.param([UNTIL_CLOSED, CLOSE], id="nothing, until it is closed"),
        pytest.param([whole(b"It is nice.")], id="no JSON"),
        pytest.param([whole(ANSWER[:-9])], id="half"),
        pytest.param([whole(b'{"error": {"message": "sk-secret", "type": "server_error"}}')], id="an error"),
        *(
            pytest.param([whole(json.dumps(BODY | odd).encode())], id=f"usage, and {odd}")
            for odd in ({"error": {"message": "sk-secret"}}, {"error": "sk-secret"}, {"choices": None})
        ),
        *(pytest.param([f"HTTP/1.1 {status} X\r\n\r\n".encode(), CLOSE], id=str(status)) for status in (204, 304, 206)),
        pytest.param([whole(ANSWER, content_encoding="zstd")], id="an encoding nobody knows"),
    ],
)
def test_what_is_no_answer_is_an_error(gateway: Gateway, scripted: Scripted, steps: list[Step]) -> None:
    scripted.says(*steps)
    raw, row = asked(gateway, False)
    assert (raw.status_code, raw.json()["error"]["code"]) == (502, "provider_error")
    assert "sk-secret" not in raw.text
    assert (row["status"], row["error_code"], row["http_status"]) == ("failed", "provider_error", 502)
    assert (row["input_tokens"], row["output_tokens"]) == (0, 0)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([whole(ANSWER).replace(b"length: ", b"length: 9"), CLOSE], id="less than promised"),
        pytest.param([whole(json.dumps(BODY | {"choices": []}).encode())], id="no choices"),
    ],
)
def test_what_is_no_answer_but_was_made_costs_what_it_says_or_an_estimate(
    gateway: Gateway, scripted: Scripted, steps: list[Step]
) -> None:
    scripted.says(*steps)
    raw, row = asked(gateway, False)
    assert (raw.status_code, raw.json()["error"]["code"]) == (502, "provider_error")
    assert (row["status"], row["error_code"]) == ("failed", "provider_error")
    assert (row["input_tokens"], row["output_tokens"]) == (3, 2) or (row["estimated"] and row["input_tokens"] > 3)


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8"])
def test_a_whole_answer_to_who_asked_for_a_stream_is_an_error(gateway: Gateway, scripted: Scripted, kind: str) -> None:
    scripted.says(typed(kind))
    raw, row = asked(gateway, True)
    assert (raw.status_code, raw.json()["error"]["code"]) == (502, "provider_error")
    assert row["status"] == "failed"


def test_an_answer_without_usage_is_estimated(gateway: Gateway, scripted: Scripted) -> None:
    scripted.says(whole(json.dumps({**BODY, "usage": None}).encode()))
    raw, row = asked(gateway, False)
    assert raw.json()["choices"][0]["message"]["content"] == "Hi."
    assert (row["status"], row["estimated"]) == ("success", True)


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
def test_an_error_of_60_mib_is_told_in_a_few_words(gateway: Gateway, scripted: Scripted, streamed: bool) -> None:
    scripted.says(whole(b'{"error": {"message": "%b"}}' % (b"x" * (60 << 20)), status=400))
    raw, row = asked(gateway, streamed)
    assert (raw.status_code, len(raw.content) < 1000) == (400, True)
    assert (row["status"], row["http_status"]) == ("failed", 400)


@pytest.mark.parametrize("more", [{}, {"stream_options": {"include_usage": True}}], ids=["plain", "asks for usage"])
def test_a_page_of_html_to_who_asked_for_a_stream_is_an_error(
    gateway: Gateway, scripted: Scripted, more: dict[str, Any]
) -> None:
    """What a proxy before a provider may say with a 200. Nothing of it may reach a client, least of all as a page."""
    scripted.says(whole(b"<html>\n\n<script>alert(1)</script>\n\n</html>", content_type="text/html; charset=utf-8"))
    raw = gateway.http.post("/v1/chat/completions", json=ask("hi", "odd", stream=True, **more), headers=bearer())
    assert (raw.status_code, raw.headers["content-type"]) == (502, "application/json")
    assert raw.json()["error"]["code"] == "provider_error"
    assert gateway.row(raw.headers["x-gateway-request-id"])["status"] == "failed"


@pytest.mark.parametrize("usage", [True, False], ids=["asks for usage", "does not"])
@pytest.mark.parametrize(
    "pieces",
    [(SAID, SAID[:-9]), (SAID[:-9],), (b"<html>",), (SAID[:-1],), ()],
    ids=["in its second event", "in its first", "another type", "before an empty line", "before anything"],
)
def test_a_stream_that_is_cut_ends_with_an_error_event(
    gateway: Gateway, scripted: Scripted, pieces: tuple[bytes, ...], usage: bool
) -> None:
    """Who asks for usage has every byte at once; to all others half an event is none."""
    scripted.says(*stream(*pieces))
    options = {"stream_options": {"include_usage": True}} if usage else {}
    body = ask("hi", "odd", stream=True, **options)
    raw = gateway.http.post("/v1/chat/completions", json=body, headers=bearer())
    *events, last, nothing = raw.text.split("\n\n")
    assert (json.loads(last.strip().removeprefix("data: "))["error"]["code"], nothing) == ("provider_error", "")
    if not usage:
        assert events == [SAID.decode().strip()] * (len(pieces) - 1)
    assert gateway.row(raw.headers["x-gateway-request-id"])["status"] == "failed"


@pytest.mark.parametrize("kind", ["text/event-stream", "text/plain"])
def test_a_stream_that_ends_before_a_finish_reason_failed_and_costs(
    gateway: Gateway, scripted: Scripted, kind: str
) -> None:
    """What its client was told, whatever came before."""
    begun = event({"choices": [{"index": 0, "delta": {"content": "Hi."}, "finish_reason": None}]})
    scripted.says(*stream(begun, *EVENTS[1:-1], content_type=kind))
    raw, row = asked(gateway, True)
    assert '"code":"provider_error"' in raw.text
    assert (row["status"], row["error_code"]) == ("failed", "provider_error")
    assert (row["estimated"], row["input_tokens"], row["output_tokens"]) == (False, 3, 2)


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b"data: [DONE]\n", b"data: [DONE]"], ids=str)
def test_a_stream_that_says_it_is_done_is(gateway: Gateway, scripted: Scripted, end: bytes) -> None:
    scripted.says(*stream(*EVENTS[:-1], end, content_type="Text/Event-Stream; charset=utf-8"))
    raw, row = asked(gateway, True)
    assert raw.text == (SAID + end).decode()
    assert (row["status"], row["input_tokens"], row["output_tokens"]) == ("success", 3, 2)


def test_compressed_streams_come_as_they_are_made_but_for_the_first(gateway: Gateway, scripted: Scripted) -> None:
    """Each worker must have met one."""
    shown, packer = threading.Event(), zlib.compressobj(wbits=31)
    begin = packer.compress(SAID) + packer.flush(zlib.Z_SYNC_FLUSH)
    end = packer.compress(b"".join(EVENTS[1:])) + packer.flush()
    head, *pieces, over = stream(begin, end, content_encoding="gzip", content_type="text/plain")

    def answer(_: Any) -> Iterator[bytes]:
        yield head + pieces[0]
        shown.wait(1)  # a client that sees nothing before the end says so by then
        yield pieces[1] + over

    scripted.does(answer)
    body, request_ids = ask("hi", "odd", stream=True), set()
    while not shown.is_set():
        with gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=bearer()) as raw:
            text = ""
            for piece in raw.iter_text():
                text += piece
                if "[DONE]" not in text:
                    shown.set()
        assert text.endswith("data: [DONE]\n\n")
        assert raw.headers["content-type"] == "text/event-stream; charset=utf-8"
        request_ids.add(raw.headers["x-gateway-request-id"])
        assert len(request_ids) < 9
    for request_id in request_ids:
        row = gateway.row(request_id)
        assert (row["status"], row["estimated"], row["output_tokens"]) == ("success", False, 2)


def test_on_a_connection_from_before_a_reload_usage_is_read_too(new_config: Callable[[], Config]) -> None:
    """Its listener reads none: what passes by it is for the worker to read."""
    config = new_config() | {"cache": {"exact": False}}
    with running(config) as gateway:
        plain = ask("hi", "gpt")

        def one() -> Any:
            return gateway.http.post("/v1/chat/completions", json=plain, headers=bearer())

        assert "routed_from" in one().text
        gateway.file.write_text(yaml.safe_dump(config | {"response_metadata": "headers"}))
        subprocess.run([GATEWAY, "reload", "--config", gateway.file], check=True)
        answers = [one()]

        def in_force() -> bool:
            answers.append(one())
            return "routed_from" not in answers[-1].text

        wait_until(in_force, 10, "the change to be in force")
        answers += [one() for _ in range(30)]
        for answer in answers:
            row = gateway.row(answer.headers["x-gateway-request-id"])
            assert (row["estimated"], row["output_tokens"]) == (False, answer.json()["usage"]["completion_tokens"])
