"""The one connection to the state: order, splits, and a server that hangs, dies, or is not the one to talk to."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from unittest import mock

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import parse_url

from extproc.state import ErrorReply, State, StateTimeout, StateUnreachable
from extproc.state.address import of_server
from extproc.state.pipe import Pipe, open_state
from tests.budget.conftest import Valkey
from tests.envoy.harness import free_port


@pytest.fixture
def server() -> Iterator[Valkey]:
    server = Valkey().start()
    yield server
    server.close()


@pytest.fixture
async def pipe(server: Valkey) -> AsyncIterator[State]:
    pipe = open_state(server.url, timeout_s=0.3)
    yield pipe
    await pipe.aclose()


async def until(call: Callable[[], Awaitable[object]], tries: int = 200) -> object:
    for _ in range(tries):
        try:
            return await call()
        except (StateUnreachable, StateTimeout, ErrorReply):
            await asyncio.sleep(0.02)
    return await call()


async def test_each_caller_gets_its_own_reply_over_one_connection(pipe: State) -> None:
    replies = await asyncio.gather(*(pipe.execute_command("ECHO", f"{i}" * (i % 50)) for i in range(2000)))
    assert replies == [f"{i}".encode() * (i % 50) for i in range(2000)]
    listed = await pipe.execute_command("CLIENT", "LIST")
    assert listed.count(b"id=") == 1


async def test_commands_of_one_turn_leave_in_one_write(pipe: State) -> None:
    """However many requests ask at once: a system call for all of them."""
    await pipe.execute_command("PING")
    link = pipe._link  # type: ignore[attr-defined]
    with mock.patch.object(link, "_transport", wraps=link._transport) as transport:
        replies = await asyncio.gather(*(pipe.execute_command("ECHO", str(i)) for i in range(100)))
    assert replies == [str(i).encode() for i in range(100)]
    assert transport.write.call_count == 1


async def test_values_of_every_kind_come_back(pipe: State) -> None:
    await pipe.execute_command("SET", "key", b"\x00\r\n\xff" * 300_000)
    assert await pipe.execute_command("GET", "key") == b"\x00\r\n\xff" * 300_000
    assert await pipe.execute_command("GET", "absent") is None
    assert await pipe.execute_command("EVAL", "return {1, {'a', false}, 'b'}", 0) == [1, [b"a", None], b"b"]


async def test_an_error_reply_is_its_callers_alone(pipe: State) -> None:
    calls = [pipe.execute_command(*command) for command in (("PING",), ("NONSENSE",), ("PING",))]
    first, wrong, last = await asyncio.gather(*calls, return_exceptions=True)
    assert (first, last) == (b"PONG", b"PONG")
    assert isinstance(wrong, ErrorReply)


async def test_a_caller_that_leaves_shifts_no_reply(pipe: State) -> None:
    await pipe.execute_command("PING")
    calls = [asyncio.ensure_future(pipe.execute_command("ECHO", str(i))) for i in range(20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    replies = await asyncio.gather(*calls, return_exceptions=True)
    assert replies[1::2] == [str(i).encode() for i in range(1, 20, 2)]


async def test_a_server_that_hangs_costs_the_timeout_and_no_wrong_reply(server: Valkey, pipe: State) -> None:
    await pipe.execute_command("PING")
    server.signal(signal.SIGSTOP)
    results = await asyncio.gather(*(pipe.execute_command("ECHO", "old") for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [StateTimeout] * 5
    with pytest.raises(StateTimeout):
        await pipe.execute_command("ECHO", "old too")
    server.signal(signal.SIGCONT)
    assert await until(lambda: pipe.execute_command("ECHO", "new")) == b"new"


async def test_our_own_pause_is_not_the_servers(pipe: State) -> None:
    await pipe.execute_command("PING")
    call = asyncio.ensure_future(pipe.execute_command("ECHO", "there"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    time.sleep(0.5)  # noqa: ASYNC251 - the event loop is to stand still
    assert await call == b"there"


async def test_a_restarted_server_is_found_again(server: Valkey, pipe: State) -> None:
    await pipe.execute_command("PING")
    server.kill()
    with pytest.raises(StateUnreachable, match=r"v\.sock"):
        await pipe.execute_command("PING")
    server.start()
    assert await pipe.execute_command("PING") == b"PONG"


async def test_a_connection_that_breaks_under_a_command_is_replaced(server: Valkey) -> None:
    pipe = open_state(server.url, timeout_s=10)
    await pipe.execute_command("PING")
    other = Redis(unix_socket_path=str(server.socket))
    blocked = [asyncio.ensure_future(pipe.execute_command("BLPOP", "list", 0)) for _ in range(3)]
    await asyncio.sleep(0.05)
    await other.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await other.execute_command("RPUSH", "list", "a", "b", "c")
    assert sorted(await asyncio.gather(*blocked)) == [[b"list", value] for value in (b"a", b"b", b"c")]
    await other.aclose()
    await pipe.aclose()


async def test_a_server_that_became_a_replica_is_left(server: Valkey, pipe: State) -> None:
    await pipe.execute_command("PING")
    first = await pipe.execute_command("CLIENT", "ID")
    await pipe.execute_command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(ErrorReply, match="READONLY"):
        await pipe.execute_command("SET", "key", "value")
    await pipe.execute_command("REPLICAOF", "NO", "ONE")
    assert await pipe.execute_command("CLIENT", "ID") != first
    assert await pipe.execute_command("SET", "key", "value") == b"OK"


async def test_password_and_database_over_tcp() -> None:
    port = free_port()
    server = Valkey("--port", str(port), "--bind", "127.0.0.1").start()
    await Redis(unix_socket_path=str(server.socket)).execute_command("CONFIG", "SET", "requirepass", "open sesame")
    try:
        url = f"redis://:open%20sesame@127.0.0.1:{port}/3"
        pipe = open_state(url)
        assert isinstance(pipe, Pipe)
        assert b" db=3 " in await pipe.execute_command("CLIENT", "LIST")
        with pytest.raises(ErrorReply, match="WRONGPASS"):
            await open_state(f"redis://:wrong@127.0.0.1:{port}").execute_command("PING")
        await pipe.aclose()
    finally:
        server.close()


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("unix:///run/a%20b.sock", {"path": "/run/a b.sock"}),
        ("unix://u:p%40@/s?db=2", {"path": "/s", "username": "u", "password": "p@", "db": 2}),
        ("redis://", {}),
        ("redis://host:1/0", {"host": "host", "port": 1}),
        ("redis://:p%3A@[::1]/3", {"host": "::1", "password": "p:", "db": 3}),
        ("redis://h/3?db=4", {"host": "h", "db": 4}),
    ],
)
def test_an_address_is_taken_apart_as_redis_py_does(url: str, options: dict[str, object]) -> None:
    theirs = {name: value for name, value in parse_url(url).items() if name != "connection_class" and value}
    assert of_server(url) == options == theirs


@pytest.mark.parametrize(
    "url",
    ["rediss://host", "redis+cluster://host", "redis://host?socket_keepalive=true", "unix:///s?decode_responses=0"],
)
async def test_what_it_does_not_speak_is_left_to_redis_py(url: str) -> None:
    state = open_state(url)
    assert not isinstance(state, Pipe)
    await state.aclose()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+PONG\r\n+PONG\r\n+PONG\r\n", b""])
async def test_something_else_at_the_address(answer: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)
        writer.close()

    path = tmp_path_factory.mktemp("s") / "s"
    async with await asyncio.start_unix_server(talk, path):
        pipe = open_state(f"unix://{path}", timeout_s=0.3)
        if answer.startswith(b"+"):
            assert await pipe.execute_command("PING") == b"PONG"
        else:
            with pytest.raises(StateUnreachable):
                await pipe.execute_command("PING")
        await pipe.aclose()


async def test_a_reply_in_single_bytes(tmp_path_factory: pytest.TempPathFactory) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        for byte in b"*3\r\n:1\r\n$2\r\nab\r\n$-1\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    path = tmp_path_factory.mktemp("s") / "s"
    async with await asyncio.start_unix_server(trickle, path):
        pipe = open_state(f"unix://{path}", timeout_s=2)
        assert await pipe.execute_command("PING") == [1, b"ab", None]
        await pipe.aclose()
