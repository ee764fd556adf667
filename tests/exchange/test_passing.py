"""Answers that pass by Envoy alone: what is noted for it, what unexpected ones become, stand-ins of other formats."""

import gzip
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.chat import LARGE_BYTES
from extproc.exchange import live, passing
from extproc.exchange.answering import Options
from extproc.exchange.exchange import Exchange
from extproc.exchange.live import Live
from extproc.exchange.states import State
from extproc.records import Outcome
from protos.gen import extproc_pb2 as pb
from tests.exchange.test_exchange import ANSWER, ASKED, HEADERS, OPTIONS, exchange, headers, pieces, say

ID = HEADERS["x-request-id"]
STREAM = (Path(__file__).parent.parent / "fixtures/anthropic/text/upstream.sse").read_bytes()
SAID = "Grüß Gott 👋🏽"
WHOLE = json.dumps(
    {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [{"type": "text", "text": SAID}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 25, "output_tokens": 15, "cache_read_input_tokens": 100},
    }
).encode()


def asked(
    model: str, options: Options = OPTIONS, live: Live | None = None, **more: Any
) -> tuple[Exchange, pb.ProcessingResponse]:
    to = exchange(live, options=options)
    say(to, request_headers=headers(HEADERS))
    body = json.dumps({**json.loads(ASKED), "model": model, "stream": True} | more).encode()
    (reply,) = say(to, request_body=pb.HttpBody(body=body, end_of_stream=True))
    return to, reply


def stand_in(to: Exchange) -> Exchange:
    """The exchange of the next attempt, which has been asked."""
    next_one = exchange(to._live, OPTIONS)
    (reply,) = say(next_one, request_headers=headers({"x-gw-fallback": "1", "x-request-id": ID}))
    assert "x-gateway-model: claude" in reply.dynamic_metadata["gw"]["told"]
    return next_one


def test_a_stream_in_the_clients_format_ends_the_exchange_at_the_request() -> None:
    to, reply = asked("gpt")
    assert to.state is State.DONE
    noted = reply.dynamic_metadata["gw"]
    assert noted["native"]
    told = dict(line.split(": ", 1) for line in noted["passing"]["told"].removesuffix("\t").split("\t"))
    assert told["x-gateway-model"] == "gpt"
    assert told["x-gateway-request-id"] == noted["passing"]["id"] == ID
    assert (noted["passing"]["worker"], noted["passing"]["target"]) == ("worker-0", "1")


@pytest.mark.parametrize("stream", [True, False])
def test_what_is_to_be_translated_keeps_the_exchange(stream: bool) -> None:
    to, reply = asked("claude", stream=stream)
    assert to.state is State.WAITING
    assert "passing" not in reply.dynamic_metadata["gw"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_large_request_keeps_the_exchange_and_leaves_its_room_when_the_answer_begins(stream: bool) -> None:
    said = [{"role": "user", "content": "x" * LARGE_BYTES}]
    to, reply = asked("gpt", stream=stream, messages=said)
    assert to.state is State.WAITING
    assert "passing" not in reply.dynamic_metadata["gw"]
    say(
        to,
        response_headers=headers(
            {":status": "200", "content-type": "text/event-stream" if stream else "application/json"}
        ),
    )
    assert len(to._live) == 0


def test_what_the_fields_of_a_whole_answer_say_is_noted() -> None:
    noted = asked("gpt", stream=False)[1].dynamic_metadata["gw"]
    assert noted["passing"]["fields"].split(" ")[1:] == ["1800000000000.000", '"gpt"']
    assert noted["passing"]["rates"] == "0 - - - - - -"
    assert "native" not in noted
    quiet = asked("gpt", Options(worker=0, metadata_in_body=False), stream=False)[1].dynamic_metadata["gw"]["passing"]
    assert not {"fields", "rates"} & quiet.keys()


def test_it_is_found_until_the_next_attempt_must_have_begun() -> None:
    to, _ = asked("gpt-ha")
    to.close()
    plan = to._live.find(ID)
    assert not plan.chat.body
    assert plan.chat.text
    stand_in(to)
    assert to._live.find(ID) is plan


def test_an_answer_for_which_there_is_no_room_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PASSING_BYTES", 0)
    to, reply = asked("gpt")
    assert to.state is State.WAITING
    assert reply.dynamic_metadata["gw"]["crowded"]
    assert "passing" not in reply.dynamic_metadata["gw"]


def rescued(to: Exchange, answered: dict[str, str], body: bytes) -> tuple[Outcome, dict[str, str], bytes]:
    """Outcome, headers and body that the ingress gets for an answer it did not expect."""
    lines = "".join(f"\n{name}: {value}" for name, value in answered.items())
    session = passing.service(to._live).session()
    reply = session.receive(f"{ID}{lines}\n\n".encode() + body)
    assert isinstance(reply, bytes)
    head, _, rest = reply.partition(b"\n\n")
    outcome, *told = head.decode().split("\n")
    return msgspec.json.decode(outcome, type=Outcome), dict(line.split(": ", 1) for line in told), rest


FROM_PROVIDER = {"x-envoy-upstream-service-time": "1", "content-type": "application/json", "set-cookie": "provider=1"}


@pytest.mark.parametrize(
    ("status", "code", "wanted", "more"),
    [
        (400, "context_length_exceeded", 400, {}),
        (401, "provider_error", 502, {}),
        (429, "rate_limit_exceeded", 429, {"retry-after": "7"}),
        (500, "provider_error", 502, {}),
    ],
)
def test_an_error_is_what_it_would_have_been(status: int, code: str, wanted: int, more: dict[str, str]) -> None:
    to, _ = asked("gpt")
    error = json.dumps({"error": {"message": "sk-secret is wrong", "code": "context_length_exceeded"}}).encode()
    outcome, told, body = rescued(to, {":status": str(status)} | FROM_PROVIDER | more, error)
    assert told[":status"] == str(wanted)
    assert told["x-gateway-provider"] == "openai"
    assert told.get("retry-after") == more.get("retry-after")
    assert "set-cookie" not in told
    said = json.loads(body)["error"]
    assert said["code"] == outcome.error_code
    assert (outcome.attempts, said["code"]) == (1, code)
    assert status == 400 or "sk-secret" not in said["message"]


def test_what_envoy_says_itself_is_told_in_our_words() -> None:
    to, _ = asked("gpt")
    _, told, body = rescued(to, {":status": "504"}, b"")
    assert (told[":status"], json.loads(body)["error"]["code"]) == ("504", "provider_timeout")


def test_a_compressed_stream_is_read_and_the_next_one_as_it_comes() -> None:
    to, _ = asked("gpt")
    chunk = {"choices": [{"index": 0, "delta": {"content": "Late."}, "finish_reason": "stop"}]}
    events = b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n"
    answered = {":status": "200", "content-type": "text/event-stream", "content-encoding": "gzip"}
    zipped = gzip.compress(events)
    outcome, told, body = rescued(to, FROM_PROVIDER | answered, zipped)
    assert (told["content-type"], outcome.complete) == ("text/event-stream; charset=utf-8", True)
    assert b"Late." in body
    assert body.endswith(b"data: [DONE]\n\n")
    assert not outcome.native
    to, _ = asked("gpt", live=to._live)
    assert to.state is State.WAITING
    say(to, response_headers=headers(answered))
    (piece,) = say(to, response_body=pb.HttpBody(body=zipped[:-8]))  # but for its sum
    assert b"Late." in piece.response_body.response.body_mutation.body
    to, _ = asked("gpt", live=to._live)
    assert to.state is State.WAITING
    say(to, response_headers=headers(answered | {"content-encoding": "identity"}))
    to, _ = asked("gpt", live=to._live)
    assert to.state is State.DONE  # it no longer compresses: what it streams passes again


@pytest.mark.parametrize(
    "answered",
    [
        {"content-type": "application/json"},
        {"content-type": "text/event-stream", "content-encoding": "zstd"},
        {"content-type": "text/event-stream", "content-encoding": "gzip"},
    ],
)
def test_what_is_no_stream_is_an_error(answered: dict[str, str]) -> None:
    to, _ = asked("gpt")
    _, told, body = rescued(to, FROM_PROVIDER | answered | {":status": "200"}, json.dumps(ANSWER).encode())
    if answered.get("content-encoding") == "gzip":  # which only its body tells: the stream has begun
        assert json.loads(body.removeprefix(b"data: "))["error"]["code"] == "provider_error"
    else:
        assert (told[":status"], json.loads(body)["error"]["code"]) == ("502", "provider_error")


@pytest.mark.parametrize(
    ("status", "wanted", "code"),
    [
        ("400", "400", "invalid_request_error"),
        ("429", "429", "rate_limit_exceeded"),
        ("503", "502", "provider_error"),
        ("504", "504", "provider_timeout"),
        ("200", "502", "provider_error"),
    ],
)
def test_of_a_request_nobody_knows_the_status_tells(status: str, wanted: str, code: str) -> None:
    answered = {":status": status, "x-envoy-attempt-count": "2", "retry-after": "7"}
    outcome, told, body = rescued(exchange(), answered, b"sk-secret")
    said = json.loads(body)["error"]
    assert (told[":status"], said["code"]) == (wanted, code)
    assert (outcome.attempts, outcome.error_code) == (2, said["code"])
    assert told.get("retry-after") == ("7" if status == "429" else None)
    assert b"sk-secret" not in body


# --- stand-ins of another format, behind the loopback ----------------------------------------------------------------


def relayed(model: str, kind: str, body: Sequence[bytes], **more: Any) -> tuple[Exchange, bytes]:
    """What the ingress gets of a stand-in's answer."""
    to = stand_in(asked(model, **more)[0])
    assert to.state is State.RELAYING
    heads = say(to, response_headers=headers({":status": "200", "content-type": kind, "content-length": "9"}))
    out = b""
    for number, piece in enumerate(body):
        last = number == len(body) - 1
        for reply in say(to, response_body=pb.HttpBody(body=piece, end_of_stream=last)):
            heads += [reply] if reply.HasField("response_headers") else []
            out += reply.response_body.response.body_mutation.body
    (head,) = heads
    assert list(head.response_headers.response.header_mutation.remove_headers) == ["content-length", "content-encoding"]
    return to, out


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, len(STREAM)), max_size=6), st.booleans())
def test_a_stream_is_relayed_with_its_usage_however_it_is_cut(cuts: list[int], asks: bool) -> None:
    cut = [STREAM[begin:end] for begin, end in pairwise([0, *sorted(cuts), len(STREAM)])]
    to, out = relayed("gpt-ha", "text/event-stream", cut, stream_options={"include_usage": asks})
    assert to.state is State.DONE
    *events, done = [line.removeprefix("data: ") for line in out.decode().split("\n\n") if line]
    chunks = [json.loads(event) for event in events]
    assert done == "[DONE]"
    assert "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]) == SAID
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["prompt_tokens"] == 165
    assert chunks[-1]["usage"]["prompt_tokens_details"]["cache_write_long_tokens"] == 10
    assert all(("usage" in chunk) is asks for chunk in chunks[:-1])


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, len(WHOLE)), max_size=6))
def test_a_whole_answer_is_relayed_however_it_is_cut(cuts: list[int]) -> None:
    to = stand_in(asked("gpt-ha", Options(worker=0, metadata_in_body=False), stream=False)[0])
    say(to, response_headers=headers({":status": "200", "content-type": "application/json"}))
    *early, last = [say(to, response_body=piece) for piece in pieces(WHOLE, cuts)]
    assert not any(early)
    body = json.loads(last[-1].response_body.response.body_mutation.body)
    assert body["choices"][0]["message"]["content"] == SAID
    assert (body["usage"]["prompt_tokens"], body["object"]) == (125, "chat.completion")
    assert to.state is State.DONE


@pytest.mark.parametrize(
    "answered",
    [
        {":status": "529"},
        *({":status": "200", "content-type": kind} for kind in ("application/json", "Application/JSON", "text/html")),
    ],
    ids=["an error", "not what was asked for", "nor in other letters", "a page"],
)
def test_what_is_no_answer_goes_on_as_it_is(answered: dict[str, str]) -> None:
    to = stand_in(asked("gpt-ha")[0])
    (reply,) = say(to, response_headers=headers(answered))
    assert reply == pb.ProcessingResponse(response_headers=pb.HeadersResponse())
    assert to.state is State.DONE
