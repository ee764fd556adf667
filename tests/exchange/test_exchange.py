"""The exchange alone: Envoy cuts bodies where it likes, and what is said does not depend on it."""

import asyncio
import gc
import json
import weakref
from collections.abc import Sequence
from itertools import pairwise
from types import CoroutineType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.budget.estimate import OutputEstimates
from extproc.budget.ledger import Account, Admitted, HoldState, Minute, Refused, Reservation, Rider, Standing
from extproc.budget.reserve import Reserver
from extproc.catalog import compile_catalog
from extproc.exchange.answering import Options
from extproc.exchange.exchange import Exchange
from extproc.exchange.live import Live
from extproc.exchange.states import State
from extproc.pipeline import Pipeline
from extproc.routing.standing import View
from extproc.settings import parse
from extproc.tokens import Estimator
from protos.gen import extproc_pb2 as pb

SETTINGS = parse(
    """
providers:
  openai: {format: openai, base_url: "http://127.0.0.1:9/v1", credential: x}
  anthropic: {format: anthropic, base_url: "http://127.0.0.1:9", credential: x}
models: [{name: gpt, provider: openai}, {name: claude, provider: anthropic}, {name: gpt-ha, provider: openai}]
equivalents: [{models: [claude, gpt]}, {models: [gpt-ha, claude]}]
teams: [{id: search, keys: [sk-search]}, {id: other, keys: [sk-others]}]
""",
    {},
)
HEADERS = {
    ":method": "POST",
    ":path": "/v1/chat/completions",
    "authorization": "Bearer sk-search",
    "content-type": "application/json",
    "x-request-id": "5b0c0f5e-0000-4000-8000-000000000000",
}
ASKED = json.dumps({"model": "gpt", "messages": [{"role": "user", "content": "What is the time, 先生?"}]}).encode()
OPTIONS = Options(worker=0)
READS = Options(worker=0, native_streams=False)  # every answer, also one in the client's own format
USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Late."}, "finish_reason": "stop"}
ANSWER = {"id": "c1", "object": "chat.completion", "created": 1, "model": "gpt", "choices": [CHOICE], "usage": USAGE}
ANSWERED = json.dumps(ANSWER).encode()


class Yes:
    def rider(self, reservation: Reservation) -> None:
        return None

    async def reserve(self, reservation: Reservation, rider: Rider | None = None) -> Admitted | Refused:
        return Admitted(reservation.output_tokens, Standing(Account(), Account(), Minute()))

    async def release(self, team_id: str, hold_id: str) -> HoldState:
        return "held"


class Clock:
    def wall_s(self) -> float:
        return 1_800_000_000.0

    def mono_ns(self) -> int:
        return 0


def exchange(live: Live | None = None, options: Options = READS) -> Exchange:
    """`live`: of the exchange that this one is a fallback attempt of."""
    reserver = Reserver(Yes(), Estimator(), OutputEstimates(), lease_ms=1000)
    pipeline = Pipeline(compile_catalog(SETTINGS), reserver, Clock(), View(SETTINGS.breaker))
    return Exchange(pipeline, Live() if live is None else live, options)


def headers(values: dict[str, str], *, end: bool = False) -> pb.HttpHeaders:
    items = [pb.HeaderValue(key=name, raw_value=value.encode()) for name, value in values.items()]
    return pb.HttpHeaders(headers=pb.HeaderMap(headers=items), end_of_stream=end)


def pieces(body: bytes, cuts: Sequence[int]) -> list[pb.HttpBody]:
    bounds = [0, *sorted(cuts), len(body)]
    found = [pb.HttpBody(body=body[begin:end]) for begin, end in pairwise(bounds)]
    found[-1].end_of_stream = True
    return found


def say(to: Exchange, **message: Any) -> list[pb.ProcessingResponse]:
    said = to.receive(pb.ProcessingRequest(**message).SerializeToString())
    if isinstance(said, CoroutineType):
        said = asyncio.run(said)
    replies = () if said is None else said if isinstance(said, tuple) else (said,)
    return [pb.ProcessingResponse.FromString(bytes(reply)) for reply in replies]


def asked(to: Exchange, cuts: Sequence[int] = ()) -> pb.ProcessingResponse:
    """The one reply to a request, as soon as its object is whole: its length was not told."""
    assert say(to, request_headers=headers(HEADERS)) == []
    replies, came = [], b""
    for piece in pieces(ASKED, cuts):
        came += piece.body
        said = say(to, request_body=piece)
        assert len(said) == (came == ASKED and not replies)
        replies += said
    (reply,) = replies
    return reply


def cuts_of(body: bytes) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, len(body)), max_size=6)


@settings(max_examples=50)
@given(cuts_of(ASKED))
def test_a_request_is_answered_once_however_it_is_cut(cuts: list[int]) -> None:
    reply = asked(exchange(), cuts)
    common = reply.request_headers.response
    assert common.status == pb.CommonResponse.CONTINUE_AND_REPLACE
    assert common.clear_route_cache
    assert json.loads(common.body_mutation.body) == json.loads(ASKED)
    assert reply == asked(exchange())


def test_pieces_that_all_end_like_an_object_are_not_read_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With each the object might have ended; in small ones a client could have a worker read for minutes."""
    read: list[int] = []
    monkeypatch.setattr("extproc.exchange.upload._is_json", lambda text: bool(read.append(len(text))))
    to = exchange()
    say(to, request_headers=headers(HEADERS))
    for _ in range(30_000):
        assert say(to, request_body=pb.HttpBody(body=b",{}")) == []
    assert len(read) > 3_000
    assert sum(read) < 2**24


@settings(max_examples=50)
@given(cuts_of(ANSWERED))
def test_an_answer_has_a_reply_for_each_piece_and_its_body_in_the_last(cuts: list[int]) -> None:
    to = exchange()
    asked(to)
    assert say(to, response_headers=headers({":status": "200", "content-type": "application/json"})) == []
    cut = pieces(ANSWERED, cuts)
    *early, last = [say(to, response_body=piece) for piece in cut]
    assert not any(early)
    head, *bodies = last
    assert len(bodies) == len(cut)
    assert all(each.response_body.response.body_mutation.clear_body for each in bodies[:-1])
    body = bodies[-1].response_body.response.body_mutation.body
    length = {
        option.header.key: option.header.raw_value or option.header.value
        for option in head.response_headers.response.header_mutation.set_headers
    }["content-length"]
    assert int(length) == len(body)
    assert json.loads(body)["choices"] == [CHOICE]
    assert to.state is State.DONE


@settings(max_examples=50)
@given(cuts_of(ANSWERED))
def test_an_error_is_said_once_whole(cuts: list[int]) -> None:
    to = exchange()
    asked(to)
    say(to, response_headers=headers({":status": "500", "x-envoy-upstream-service-time": "1"}))
    *early, last = [say(to, response_body=piece) for piece in pieces(ANSWERED, cuts)]
    assert not any(early)
    (reply,) = last
    assert reply.immediate_response.status.code == 502


@pytest.mark.parametrize("answered", [True, False])
def test_a_request_is_kept_until_its_answer_or_its_end(answered: bool) -> None:
    to = exchange()
    asked(to)
    assert len(to._live) == 1
    if answered:
        say(to, response_headers=headers({":status": "200", "content-type": "application/json"}))
    else:
        to.close()
    assert len(to._live) == 0


def test_what_it_held_is_given_back_at_its_end() -> None:
    """Not at the next collection, of which there are few: bodies may be large."""
    to = exchange()
    asked(to)
    say(to, response_headers=headers({":status": "200", "content-type": "application/json"}))
    say(to, response_body=pb.HttpBody(body=ANSWERED, end_of_stream=True))
    to.close()
    gone = weakref.ref(to)
    gc.disable()
    try:
        del to
        assert gone() is None
    finally:
        gc.enable()


def test_a_stranger_is_refused_before_the_body() -> None:
    (reply,) = say(exchange(), request_headers=headers(HEADERS | {"authorization": "Bearer sk-stranger"}))
    assert reply.immediate_response.status.code == 401


def test_a_body_that_grows_too_large_is_refused_when_it_does() -> None:
    to = exchange()
    say(to, request_headers=headers(HEADERS))
    piece = pb.HttpBody(body=bytes(8 * 1024 * 1024))
    assert [say(to, request_body=piece) for _ in range(4)] == [[]] * 4
    (reply,) = say(to, request_body=pb.HttpBody(body=b"x"))
    assert reply.immediate_response.status.code == 413


LARGE = {"content-length": str(30 * 1024 * 1024)}
OTHER = {"authorization": "Bearer sk-others"}


def overloaded(*replies: pb.ProcessingResponse) -> bool:
    (reply,) = replies
    said = reply.immediate_response
    return said.status.code == 503 and json.loads(said.body)["error"]["code"] == "overloaded"


def begins(live: Live, **more: str) -> Exchange:
    """A large request that has room."""
    to = exchange(live)
    assert say(to, request_headers=headers(HEADERS | LARGE | more)) == []
    return to


def leaves(*clients: Exchange) -> None:
    for each in clients:
        last = each.close()
        assert last is not None
        asyncio.run(last)


def test_large_bodies_on_their_way_have_so_much_room() -> None:
    live = Live()
    held = [begins(live) for _ in range(2)]
    assert overloaded(*say(exchange(live), request_headers=headers(HEADERS | LARGE)))
    assert not asked(exchange(live)).HasField("immediate_response")  # a small one needs none
    leaves(held[0])
    assert held[0].close() is None  # once is enough
    begins(live)
    assert overloaded(*say(exchange(live), request_headers=headers(HEADERS | LARGE)))


def test_no_team_takes_the_room_of_the_others() -> None:
    live = Live()
    held = [begins(live), begins(live), begins(live, **OTHER)]
    assert overloaded(*say(exchange(live), request_headers=headers(HEADERS | LARGE | OTHER)))
    leaves(*held[:2])
    begins(live, **OTHER)
    begins(live)
    assert overloaded(*say(exchange(live), request_headers=headers(HEADERS | LARGE)))


def test_small_ones_have_room_of_their_own_and_no_team_takes_all_of_it() -> None:
    live, small = Live(), {"content-length": str(250 * 1024)}
    held = [begins(live, **small) for _ in range(262)]
    assert overloaded(*say(exchange(live), request_headers=headers(HEADERS | small)))
    held.append(begins(live, **OTHER, **small))
    leaves(*held)
    held = [begins(live), begins(live), begins(live, **OTHER)]
    begins(live, **small)


def test_a_large_body_of_untold_length_takes_room_as_it_comes() -> None:
    live = Live()
    begins(live)
    to = exchange(live)
    say(to, request_headers=headers(HEADERS))
    assert say(to, request_body=pb.HttpBody(body=bytes(30 * 1024 * 1024))) == []
    another = exchange(live)
    say(another, request_headers=headers(HEADERS))
    assert say(another, request_body=pb.HttpBody(body=bytes(19 * 256 * 1024))) == []
    assert overloaded(*say(another, request_body=pb.HttpBody(body=b"x")))


def test_room_is_free_once_a_body_is_decided() -> None:
    live = Live()
    body = json.dumps({**json.loads(ASKED), "user": "x" * 30 * 1024 * 1024}).encode()
    for _ in range(6):
        to = exchange(live)
        say(to, request_headers=headers(HEADERS | {"content-length": str(len(body))}))
        (reply,) = say(to, request_body=pb.HttpBody(body=body, end_of_stream=True))
        assert not reply.HasField("immediate_response")


@pytest.mark.parametrize("body", [b"", b"data: {}\n\n"])
def test_a_native_stream_of_a_stand_in_ends_the_exchange_at_its_headers(body: bytes) -> None:
    to = exchange(options=OPTIONS)
    say(to, request_headers=headers(HEADERS))
    streamed = json.dumps({**json.loads(ASKED), "model": "claude", "stream": True}).encode()
    say(to, request_body=pb.HttpBody(body=streamed, end_of_stream=True))
    say(exchange(to._live), request_headers=headers({"x-gw-fallback": "1", "x-request-id": HEADERS["x-request-id"]}))
    answered = {":status": "200", "content-type": "text/event-stream", "x-gw-target": "2"}
    (reply,) = say(to, response_headers=headers(answered))
    assert reply.dynamic_metadata["gw"]["native"]
    assert to.state is State.DONE
    if body:  # it was on its way: Envoy passes it on when the stream ends
        assert len(say(to, response_body=pb.HttpBody(body=body))) == 1
