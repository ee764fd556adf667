"""gRPC calls over one connection, with `h2` at the other end; each case whole, then byte by byte."""

import gc
import weakref

import h2.events
import pytest

from extproc.body.pieces import Pieces
from extproc.transport import frame
from extproc.transport.message import framed
from extproc.transport.sending import TURN_BYTES
from tests.transport.peer import Pair

WHOLE = 1 << 30


@pytest.fixture(params=[WHOLE, 1, 7], ids=["whole", "bytes", "sevens"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(split=request.param)


def test_each_message_gets_its_reply_and_the_end_a_last_one(pair: Pair) -> None:
    stream = pair.open()
    pair.say(stream, b"one")
    assert pair.data[stream] == framed(b"one")
    pair.say(stream, b"", b"x" * 5000, end=True)
    assert pair.data[stream] == framed(b"one") + framed(b"") + framed(b"x" * 5000) + framed(b"bye")
    assert pair.status(stream) == (0, "")
    assert pair.log == ["finish", "close"]
    assert not pair.of(stream, h2.events.StreamReset)
    assert not pair.connection.streams
    assert len(pair.calls) == 0


def test_a_message_may_go_unanswered(pair: Pair) -> None:
    stream = pair.open()
    pair.say(stream, b"silent", end=True)
    assert pair.data[stream] == framed(b"bye")


def test_a_session_that_is_done_ends_the_call_and_stops_the_caller(pair: Pair) -> None:
    stream = pair.open()
    pair.say(stream, b"last")
    assert pair.data[stream] == framed(b"last")
    assert pair.status(stream) == (0, "")
    assert [event.error_code for event in pair.of(stream, h2.events.StreamReset)] == [0]
    assert pair.log == ["close"]


def test_what_comes_after_the_end_is_ignored(pair: Pair) -> None:
    stream = pair.open()
    pair.client.send_data(stream, framed(b"last") + framed(b"more"))
    pair.client.send_data(stream, framed(b"and more"), end_stream=True)
    pair.run()
    assert pair.data[stream] == framed(b"last")
    other = pair.open()
    pair.say(other, b"one")
    assert pair.data[other] == framed(b"one")


def test_calls_do_not_wait_for_one_another(pair: Pair) -> None:
    slow, quick = pair.open("/wait"), pair.open()
    pair.say(slow, b"slow")
    pair.say(quick, b"quick")
    assert (pair.data[slow], pair.data[quick]) == (b"", framed(b"quick"))
    pair.scheduler.spawned[0].resume()
    pair.run()
    assert pair.data[slow] == framed(b"slow")


def test_messages_of_one_call_wait_for_their_turn(pair: Pair) -> None:
    stream = pair.open("/wait")
    pair.say(stream, b"1", b"2", b"last", b"never")
    assert len(pair.scheduler.spawned) == 1
    for number in range(3):
        pair.scheduler.spawned[number].resume()
        pair.run()
    assert pair.data[stream] == framed(b"1") + framed(b"2") + framed(b"last")
    assert len(pair.scheduler.spawned) == 3
    assert pair.status(stream) == (0, "")


def test_the_end_waits_for_the_last_reply(pair: Pair) -> None:
    stream = pair.open("/wait")
    pair.say(stream, b"1", end=True)
    assert pair.log == []
    pair.scheduler.spawned[0].resume()
    pair.run()
    assert pair.data[stream] == framed(b"1") + framed(b"bye")


def test_a_caller_that_resets_ends_what_it_waited_for(pair: Pair) -> None:
    stream = pair.open("/wait")
    pair.say(stream, b"1", b"2")
    pair.client.reset_stream(stream, 8)
    pair.run()
    assert not pair.scheduler.spawned[0].running
    assert pair.log == ["close"]
    assert len(pair.calls) == 0


@pytest.mark.parametrize(("path", "message"), [("/echo", b"raise"), ("/wait", b"raise later")])
def test_an_exception_ends_its_own_call_and_says_nothing(
    pair: Pair, path: str, message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    stream, other = pair.open(path), pair.open()
    pair.say(stream, message)
    for task in pair.scheduler.spawned:
        task.resume()
    pair.run()
    assert pair.status(stream) == (13, "internal error")
    assert "secret" in caplog.text
    pair.say(other, b"on")
    assert pair.data[other] == framed(b"on")
    assert pair.log == ["close"]


def test_a_deadline(pair: Pair) -> None:
    stream = pair.open("/wait", ("grpc-timeout", "1500m"))
    pair.say(stream, b"1")
    (timer,) = pair.scheduler.timers
    assert timer.seconds == 1.5
    timer.action()
    pair.run()
    assert pair.status(stream) == (4, "deadline exceeded")
    assert not pair.scheduler.spawned[0].running
    assert pair.log == ["close"]


def test_a_call_in_time_calls_off_its_deadline(pair: Pair) -> None:
    stream = pair.open("/echo", ("grpc-timeout", "2S"))
    pair.say(stream, b"last")
    assert pair.scheduler.timers[0].cancelled


@pytest.mark.parametrize(
    ("path", "more", "data", "status"),
    [
        ("/other", (), b"", 12),
        ("/echo", (("grpc-timeout", "soon"),), b"", 13),
        ("/echo", (), b"\x01\0\0\0\x01x", 12),
        ("/echo", (), b"\0\x7f\xff\xff\xff", 8),
    ],
    ids=["no such method", "no timeout", "compressed", "too large"],
)
def test_calls_that_cannot_be_served(
    pair: Pair, path: str, more: tuple[tuple[str, str], ...], data: bytes, status: int
) -> None:
    stream = pair.open(path, *more)
    pair.run()
    if data:
        pair.client.send_data(stream, data)
    pair.run()
    assert pair.status(stream)[0] == status
    assert not pair.connection.streams
    assert all(session.closed == 1 for session in pair.sessions)


def test_a_cut_message(pair: Pair) -> None:
    stream = pair.open()
    pair.client.send_data(stream, framed(b"whole") + framed(b"cut")[:-1], end_stream=True)
    pair.run()
    assert pair.data[stream] == framed(b"whole")
    assert pair.status(stream)[0] == 13


def test_what_is_not_grpc_is_told_so(pair: Pair) -> None:
    pair.client.send_headers(
        1, [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "x")], end_stream=True
    )
    pair.run()
    (answer,) = pair.of(1, h2.events.ResponseReceived)
    assert (b":status", b"415") in answer.headers
    assert pair.data[1] == b"gRPC only\n"


def test_replies_wait_for_the_window_and_the_next_message_for_them(pair: Pair) -> None:
    pair.reads = False
    pair.client.update_settings({4: 10})  # INITIAL_WINDOW_SIZE
    pair.run()
    stream = pair.open()
    large = b"y" * 40_000
    pair.say(stream, large, b"after", end=True)
    assert pair.data[stream] == framed(large)[: len(pair.data[stream])]
    assert len(pair.data[stream]) < len(large)
    call = next(iter(pair.connection.streams.values())).call
    assert list(call.backlog) == [b"after"]
    while pair.connection.streams:
        pair.client.increment_flow_control_window(9_000, stream)
        pair.client.increment_flow_control_window(9_000)
        pair.run()
    assert pair.data[stream] == framed(large) + framed(b"after") + framed(b"bye")


@pytest.mark.parametrize("several", [False, True])
def test_a_reply_in_pieces_is_one_message_and_no_frame_is_empty(several: bool) -> None:
    pair = Pair()
    pair.client.update_settings({4: 1 << 20})
    pair.client.increment_flow_control_window(1 << 20)
    stream = pair.open()
    pair.run()
    parts = [b"a", memoryview(bytes(100_000)), b"", b"b" * 20_000]
    reply = (Pieces(parts), b"", b"small") if several else Pieces(parts)
    pair.sessions[0].receive = lambda message: reply  # type: ignore[method-assign]
    pair.say(stream, b"go", end=True)
    messages = [b"".join(parts), b"", b"small"] if several else [b"".join(parts)]
    assert pair.data[stream] == b"".join(map(framed, [*messages, b"bye"]))
    assert all(event.data for event in pair.of(stream, h2.events.DataReceived))


def test_a_small_reply_passes_large_ones_which_take_turns() -> None:
    pair = Pair(limit=1 << 22, budget=1 << 23)
    pair.client.update_settings({4: 1 << 24})
    pair.client.increment_flow_control_window(1 << 24)
    pair.run()
    large = bytes(3 * TURN_BYTES)
    slow, quick = [pair.open("/wait") for _ in range(2)], pair.open()
    for stream in slow:
        pair.say(stream, large)
    for spawned in list(pair.scheduler.spawned):
        spawned.resume()
    pair.client.send_data(quick, framed(b"quick"))
    pair.calls.receive(pair.client.data_to_send())
    at_once = b"".join(pair.connection.sender.take())
    assert at_once.endswith(framed(b"quick"))
    assert len(at_once) < 2 * TURN_BYTES
    turns = []
    while pair.connection.sender.waiting:
        pair.calls.go_on()
        turn = b"".join(pair.connection.sender.take())
        turns.append(frame.HEADER.unpack_from(turn)[2])
    assert turns[:4] == [slow[0], slow[1], slow[0], slow[1]]


def test_a_large_message_gets_its_credit_at_once() -> None:
    pair = Pair()
    stream = pair.open()
    pair.run()
    pair.client.send_data(stream, framed(b"z" * 500_000)[:16_384])
    pair.run()
    assert pair.client.local_flow_control_window(stream) >= 500_000 - 16_384
    pair.say(stream, end=False)


def test_large_messages_wait_for_memory_and_all_come_through() -> None:
    pair = Pair(budget=300_000)
    streams = [pair.open() for _ in range(4)]
    left = {stream: framed(bytes([stream]) * 200_000) for stream in streams}
    while any(left.values()):
        moved = pair.run()
        for stream, data in left.items():
            room = min(pair.client.local_flow_control_window(stream), 16_384, len(data))
            if room:
                pair.client.send_data(stream, data[:room])
                left[stream] = data[room:]
        held = sum(
            sum(map(len, stream.call.reader._parts)) for stream in pair.connection.streams.values() if stream.call
        )
        assert held <= 300_000 + 4 * 65_535
        assert moved or any(left.values())
    pair.run()
    for stream in streams:
        assert pair.data[stream] == framed(bytes([stream]) * 200_000)
    assert pair.budget._left == 300_000


@pytest.mark.parametrize("lent", [True, False])
def test_memory_comes_back_from_callers_that_leave(lent: bool) -> None:
    pair = Pair(budget=300_000)
    first, second = pair.open(), pair.open()
    pair.run()
    for stream in (first, second):
        pair.client.send_data(stream, framed(b"z" * 300_000)[:16_384])
        pair.run()
    pair.client.reset_stream(first if lent else second, 8)
    pair.run()
    pair.client.reset_stream(second if lent else first, 8)
    pair.run()
    assert pair.budget._left == 300_000


@pytest.mark.parametrize("ends", ["caller", "session", "reset", "lost"])
@pytest.mark.parametrize("path", ["/echo", "/wait"])
def test_what_a_call_held_is_free_with_its_end(path: str, ends: str) -> None:
    """Not only with the next collection: that is many requests away, and each may hold a body of 10 MiB."""
    pair = Pair()
    gc.collect()
    gc.disable()
    try:
        stream = pair.open(path)
        pair.say(stream, b"last" if ends == "session" else b"one", end=ends == "caller")
        while pair.scheduler.spawned:
            pair.scheduler.spawned.pop().resume()
        if ends == "reset":
            pair.client.reset_stream(stream, 8)
        if ends == "lost":
            pair.calls.abandon()
        pair.run()
        session = weakref.ref(pair.sessions.pop())
        assert session() is None
    finally:
        gc.enable()


def test_a_lost_connection_closes_every_session() -> None:
    pair = Pair()
    pair.say(pair.open("/wait"), b"1")
    pair.say(pair.open(), b"1")
    pair.calls.abandon()
    assert [session.closed for session in pair.sessions] == [1, 1]
    assert len(pair.calls) == 0


def test_large_messages_that_follow_one_another_on_one_call_come_through() -> None:
    """One read may end a message and begin the next, which needs credit of its own."""
    pair = Pair()
    stream = pair.open()
    messages = [bytes([65 + number]) * 110_000 for number in range(12)]
    data = b"".join(map(framed, messages))
    pair.run()
    while data:
        assert pair.client.local_flow_control_window(stream), "stalled"
        while room := min(pair.client.local_flow_control_window(stream), 16_384, len(data)):
            pair.client.send_data(stream, data[:room])
            data = data[room:]
        pair.run()
    assert pair.data[stream] == b"".join(map(framed, messages))
    assert pair.connection.streams[stream].call.loan is None
