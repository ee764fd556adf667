"""Both transports on a unix socket, asked by clients that are not ours: grpcio's, h2load, h2spec."""

import asyncio
import contextlib
import re
import shutil
import struct
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from pathlib import Path
from unittest import mock

import grpc
import h2.connection
import pytest
from h2.events import StreamEnded

from extproc.settings import SettingsError, parse
from extproc.transport import server
from extproc.transport.lean import LeanServer
from extproc.transport.message import framed
from extproc.transport.session import Server, Service
from tests.transport.peer import HEADERS, Session

MINIMAL = """
providers: {openai: {format: openai, base_url: "http://127.0.0.1:9"}}
models: [{name: gpt, provider: openai}]
teams: [{id: team-search, keys: [sk-search]}]
"""
LIMIT = 64 * 1024 * 1024
GRPC = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class Waiting(Session):
    """Waits for the word `go` on another call."""

    go = asyncio.Event()

    def receive(self, message: bytes):  # type: ignore[no-untyped-def]
        if message == b"go":
            Waiting.go.set()
        return self._wait(message) if message == b"wait" else super().receive(message)

    async def _wait(self, message: bytes) -> bytes:
        await Waiting.go.wait()
        return message


class Running:
    def __init__(self, running: Server, socket: Path, sessions: list[Session]) -> None:
        self.server, self.socket, self.sessions = running, socket, sessions

    @contextlib.asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        async with grpc.aio.insecure_channel(f"unix:{self.socket}", options=GRPC) as channel:
            yield channel


@pytest.fixture
def folder() -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gw") as name:  # a unix socket's path must be short
        yield Path(name)


@pytest.fixture(params=["lean", "grpcio"])
async def running(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Running]:
    sessions: list[Session] = []
    Waiting.go = asyncio.Event()

    def session() -> Session:
        sessions.append(Waiting([]))
        return sessions[-1]

    serving = server(request.param, {"/a.B/Echo": Service(session, LIMIT)})
    await serving.start(folder / "s.sock")
    yield Running(serving, folder / "s.sock", sessions)
    await serving.stop(0)


def call(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamMultiCallable:
    return channel.stream_stream("/a.B/Echo")


async def eventually(condition) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def test_messages_of_any_size_come_back(running: Running) -> None:
    async with running.channel() as channel:
        for size in (0, 1, 16_000, 70_000, 1_000_000, 30_000_000):
            echo = call(channel)()
            await echo.write(b"m" * size)
            assert await echo.read() == b"m" * size
            await echo.done_writing()
            assert await echo.read() == b"bye"
            assert await echo.code() is grpc.StatusCode.OK
    await eventually(lambda: [session.closed for session in running.sessions] == [1] * 6)


async def test_many_calls_at_once(running: Running) -> None:
    async def one(channel: grpc.aio.Channel, number: int) -> None:
        echo = call(channel)()
        for turn in range(5):
            message = f"{number} {turn} ".encode() * (1 + 997 * number % 3000)
            await echo.write(message)
            assert await echo.read() == message
        await echo.write(b"last")
        assert await echo.read() == b"last"
        assert await echo.read() is grpc.aio.EOF
        assert await echo.code() is grpc.StatusCode.OK

    async with running.channel() as channel:
        await asyncio.gather(*(one(channel, number) for number in range(100)))
    await eventually(lambda: all(session.closed == 1 for session in running.sessions))


async def test_one_who_waits_holds_up_nobody(running: Running) -> None:
    async with running.channel() as channel:
        slow, quick = call(channel)(), call(channel)()
        await slow.write(b"wait")
        await quick.write(b"hello")
        assert await quick.read() == b"hello"
        await quick.write(b"go")
        assert await quick.read() == b"go"
        assert await slow.read() == b"wait"


async def test_a_caller_that_leaves(running: Running) -> None:
    async with running.channel() as channel:
        echo = call(channel)()
        await echo.write(b"wait")
        await eventually(lambda: running.sessions)
        await asyncio.sleep(0.05)
        echo.cancel()
        await eventually(lambda: running.sessions[0].closed == 1)


async def test_a_deadline(running: Running) -> None:
    async with running.channel() as channel:
        echo = call(channel)(timeout=1)
        await echo.write(b"wait")
        assert await echo.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: running.sessions[0].closed == 1)


@pytest.mark.parametrize(
    ("path", "message", "code"),
    [
        ("/a.B/Other", b"", grpc.StatusCode.UNIMPLEMENTED),
        ("/a.B/Echo", b"x" * (LIMIT + 1), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
    ids=["no such method", "too large"],
)
async def test_what_is_not_served(running: Running, path: str, message: bytes, code: grpc.StatusCode) -> None:
    async with running.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:  # one operation: a write of its own may fail otherwise
            await channel.unary_unary(path)(message)
        assert error.value.code() is code


async def test_stopping_lets_running_calls_finish(running: Running) -> None:
    async with running.channel() as channel:
        slow, other = call(channel)(), call(channel)()
        await slow.write(b"wait")
        await other.write(b"x")
        assert await other.read() == b"x"
        stopping = asyncio.create_task(running.server.stop(10))
        await asyncio.sleep(0.1)
        assert not stopping.done()
        late = call(channel)()
        with contextlib.suppress(grpc.aio.AioRpcError):
            await late.write(b"late")
        assert await late.code() is grpc.StatusCode.UNAVAILABLE
        await other.write(b"go")
        assert await other.read() == b"go"
        assert await slow.read() == b"wait"
        for echo in (slow, other):
            await echo.done_writing()
            assert await echo.read() == b"bye"
            assert await echo.code() is grpc.StatusCode.OK
        async with asyncio.timeout(5):
            await stopping


async def test_stopping_ends_what_does_not_finish(running: Running) -> None:
    async with running.channel() as channel:
        echo = call(channel)()
        await echo.write(b"wait")
        await eventually(lambda: running.sessions)
        async with asyncio.timeout(5):
            await running.server.stop(0.2)
        assert await echo.code() is not grpc.StatusCode.OK
        await eventually(lambda: running.sessions[0].closed == 1)


async def test_all_that_came_in_one_read_is_answered_in_one_write() -> None:
    client, transport = h2.connection.H2Connection(), mock.Mock(asyncio.Transport)
    peer = LeanServer({"/a.B/Echo": Service(lambda: Session([]), LIMIT)}).connected()
    peer.connection_made(transport)
    client.initiate_connection()
    streams = range(1, 101, 2)
    for stream in streams:
        client.send_headers(stream, [(name, "/a.B/Echo" if name == ":path" else value) for name, value in HEADERS])
        client.send_data(stream, framed(b"hello"), end_stream=True)
    transport.is_closing.return_value = False
    transport.write.reset_mock()
    peer.data_received(client.data_to_send())
    (written,) = transport.write.call_args_list
    ended = [event.stream_id for event in client.receive_data(*written.args) if isinstance(event, StreamEnded)]
    assert ended == list(streams)


async def test_a_peer_that_does_not_read_is_not_read_from(folder: Path) -> None:
    serving = LeanServer({"/a.B/Echo": Service(lambda: Session([]), LIMIT)})
    await serving.start(folder / "s.sock")
    _, writer = await asyncio.open_unix_connection(folder / "s.sock", limit=1000)
    client = h2.connection.H2Connection()
    client.initiate_connection()
    client.increment_flow_control_window(2**31 - 1 - 65_535)
    writer.write(client.data_to_send())
    pings = b"".join(b"\0\0\x08\x06\0\0\0\0\0" + struct.pack(">Q", number) for number in range(1000))
    (peer,) = await _peers(serving)
    peer._connection._calm._left = float("inf")  # what is looked at is memory, not manners
    sent = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            while True:
                writer.write(pings)
                async with asyncio.timeout(1):
                    await writer.drain()
                sent += 1
    assert peer._transport.get_write_buffer_size() < 4 * 1024 * 1024
    assert sent < 2000
    writer.close()
    await serving.stop(0)


async def _peers(serving: LeanServer) -> list:  # type: ignore[type-arg]
    await eventually(lambda: serving._peers)
    return list(serving._peers)


@contextlib.asynccontextmanager
async def lean_on_tcp() -> AsyncIterator[int]:
    """Tools for HTTP/2 want a port."""
    serving = LeanServer({"/a.B/Echo": Service(lambda: Session([]), LIMIT)})
    listening = await asyncio.get_running_loop().create_server(serving.connected, "127.0.0.1", 0)
    yield listening.sockets[0].getsockname()[1]
    listening.close()
    await serving.stop(0)


async def _run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return output.decode()


async def test_h2load(folder: Path) -> None:
    if shutil.which("h2load") is None:
        pytest.skip("h2load is not installed (Debian: nghttp2-client)")
    message = folder / "message"
    message.write_bytes(struct.pack(">BI", 0, 40_000) + bytes(40_000))
    async with lean_on_tcp() as port:
        said = await _run(
            *("h2load", "-n", "2000", "-c", "4", "-m", "50", "-d", str(message)),
            *("-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{port}/a.B/Echo"),
        )
    assert "2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout" in said, said
    assert int(re.search(r"\((\d+)\) data", said)[1]) == 2000 * (40_005 + 8)  # type: ignore[index]


# RFC 7540 had streams depend on one another; RFC 9113 dropped it, and what it says of it is to be ignored.
DROPPED = {"Sends HEADERS frame that depend on itself", "Sends PRIORITY frame that depend on itself"}


async def test_h2spec(folder: Path) -> None:
    tool = shutil.which("h2spec") or shutil.which(Path.home() / "go" / "bin" / "h2spec")
    if tool is None:
        pytest.skip("h2spec is not installed (go install github.com/summerwind/h2spec/cmd/h2spec@latest)")
    report = folder / "report.xml"
    async with lean_on_tcp() as port:
        said = await _run(tool, "-h", "127.0.0.1", "-p", str(port), "--strict", "-o", "1", "-j", str(report))
    cases = list(ET.parse(report).iter("testcase"))
    failed = {case.get("classname") for case in cases if list(case.iter("failure")) or list(case.iter("error"))}
    assert len(cases) >= 146, said
    assert failed == DROPPED, said


def test_the_setting_is_checked() -> None:
    with pytest.raises(SettingsError, match="transport: input should be 'lean' or 'grpcio'"):
        parse(f"{MINIMAL}transport: fast\n", {})
    assert parse(MINIMAL, {}).transport == "lean"
