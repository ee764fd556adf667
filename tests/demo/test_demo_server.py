"""The HTTP side: bodies, keep-alive, limits, statistics, listening, the command."""

import asyncio
import hashlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from control.demo import connection
from control.demo.server import DemoProvider, command, parse_address
from control.demo.simulator import Options

PATH = "/v1/chat/completions"
PATIENCE_S = 10
ROOT = Path(__file__).parents[2]

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]


def body_of(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]} | more


async def exchange(demo: DemoProvider, raw: bytes, answers: int = 1) -> list[bytes]:
    """Send bytes as they are; the heads of the answers."""
    host, _, port = demo.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(raw)
    heads = []
    for _ in range(answers):
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await asyncio.wait_for(reader.readexactly(length), PATIENCE_S)
        heads.append(head)
    writer.close()
    return heads


def raw_request(text: str, extra: str = "") -> bytes:
    body = json.dumps(body_of(text)).encode()
    return f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


async def test_requests_may_be_pipelined_and_arrive_in_any_pieces(demo: DemoProvider) -> None:
    heads = await exchange(demo, raw_request("one") + raw_request("two [[demo first_byte_ms=5]]") + raw_request("3"), 3)
    assert all(head.startswith(b"HTTP/1.1 200 OK\r\n") for head in heads)
    host, _, port = demo.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for byte in raw_request("slow"):
        writer.write(bytes([byte]))
        await writer.drain()
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), PATIENCE_S)).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_large_pipelined_request_waits_its_turn(demo: DemoProvider) -> None:
    slow, large = raw_request("one [[demo first_byte_ms=50]]"), raw_request("x" * 3_000_000)
    assert len(await exchange(demo, slow + large + raw_request("3"), 3)) == 3


async def test_chunked_bodies_and_connection_close(demo: DemoProvider, http: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        raw = json.dumps(body_of("y" * 200_000)).encode()
        for at in range(0, len(raw), 7919):
            yield raw[at : at + 7919]

    answer = await http.post(PATH, content=pieces())
    assert answer.json()["usage"]["prompt_tokens"] == 50_000
    closed = await http.post(PATH, json=body_of("Hello"), headers={"connection": "close"})
    assert closed.headers["connection"] == "close"
    assert demo.stats.report()["recent"][0]["outcome"] == "completed"


async def test_bodies_up_to_64_mib_and_no_further(http: httpx.AsyncClient) -> None:
    room = connection.MAX_BODY_BYTES - len(json.dumps(body_of("")))
    fits = await http.post(PATH, content=json.dumps(body_of("x" * room)))
    assert fits.status_code == 200
    assert fits.json()["usage"]["prompt_tokens"] == (room + 3) // 4
    request = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {connection.MAX_BODY_BYTES + 1}\r\n\r\n"
    async with DemoProvider() as other:
        assert (await exchange(other, request.encode()))[0].startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"x" * 70_000,
    ],
)
async def test_what_is_not_http_is_refused(demo: DemoProvider, raw: bytes) -> None:
    head = (await exchange(demo, raw))[0]
    assert head.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))


async def test_odd_json_never_kills_the_connection(http: httpx.AsyncClient) -> None:
    odd: list[Any] = [None, True, 1, "x", [], {}, [None], [{}], {"a": 1}, [[1]]]
    fields = ("messages", "tools", "tool_choice", "stop", "n", "metadata", "stream_options", "response_format", "model")
    google = ("contents", "tools", "toolConfig", "generationConfig", "systemInstruction")
    anthropic = (
        "messages",
        "system",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "metadata",
        "stop_sequences",
    )
    paths = {PATH: fields, "/v1/messages": anthropic, "/v1beta/models/m:generateContent": google}
    for path, names in paths.items():
        valid: dict[str, Any] = {"contents": [{"parts": [{"text": "x"}]}]} if "beta" in path else body_of("x")
        valid |= {"max_tokens": 9} if path == "/v1/messages" else {}
        for name in names:
            for value in odd:
                answer = await http.post(path, json=valid | {name: value}, headers={"anthropic-version": "2023-06-01"})
                assert answer.status_code in (200, 400), (path, name, value)


async def test_statistics(demo: DemoProvider, http: httpx.AsyncClient) -> None:
    secret = {"authorization": "Bearer sk-secret", "x-custom": "shown"}
    await http.post(PATH, json=body_of("Hello there"), headers=secret)
    await http.post("/v1beta/models/g:generateContent?key=sk-secret", json={"contents": [{"parts": [{"text": "x"}]}]})
    await http.post(PATH, json=body_of("[[demo status=503]]"))
    answer = await http.get("/_demo/stats")
    assert "sk-secret" not in answer.text
    report = answer.json()
    totals = report["formats"]["openai"]["m"]
    assert (totals["requests"], totals["completed"], totals["statuses"]) == (2, 2, {"200": 1, "503": 1})
    assert totals["prompt_tokens"] == 3
    newest, google, first = report["recent"]
    assert newest["status"] == 503
    assert google["path"] == "/v1beta/models/g:generateContent"
    assert first["headers"]["authorization"] == "sha256:" + hashlib.sha256(b"Bearer sk-secret").hexdigest()
    assert first["headers"]["x-custom"] == "shown"
    assert first["body"] == body_of("Hello there")
    assert totals["completion_tokens"] == first["completion_tokens"] > 0
    assert totals["bytes_sent"] == first["bytes_sent"] + newest["bytes_sent"]
    assert (await http.delete("/_demo/stats")).status_code == 200
    assert demo.stats.report() == {"formats": {}, "open": 0, "recent": []}


async def test_bodies_are_kept_only_on_request() -> None:
    async with DemoProvider() as provider, httpx.AsyncClient(base_url=provider.url) as http:
        await http.post(PATH, json=body_of("private"))
        assert "private" not in (await http.get("/_demo/stats")).text


async def test_a_slow_reader_is_waited_for(demo: DemoProvider, eventually: Eventually) -> None:
    size = 30_000_000
    host, _, port = demo.address.rpartition(":")
    loop = asyncio.get_running_loop()
    with socket.create_connection((host, int(port))) as sock:
        sock.setblocking(False)
        body = json.dumps(body_of(f"[[demo huge={size} chunks=4000]]", stream=True)).encode()
        await loop.sock_sendall(sock, f"POST {PATH} HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await eventually(lambda: any(connection._stalled for connection in demo.connections))
        assert demo.stats.report()["recent"][0]["bytes_sent"] < size  # the rest is not even written
        got = 0
        while got < size:
            got += len(await asyncio.wait_for(loop.sock_recv(sock, 1 << 20), PATIENCE_S))
        await eventually(lambda: demo.stats.report()["open"] == 0)
    assert demo.stats.report()["recent"][0]["outcome"] == "completed"


async def test_a_unix_socket_and_a_stale_one(tmp_path: Path) -> None:
    path = tmp_path / "demo.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    async with DemoProvider(f"unix:{path}") as provider:
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(base_url=provider.url, transport=transport) as http:
            assert (await http.get("/healthz")).json() == {"status": "ok"}
        with pytest.raises(OSError, match="in use"):
            await DemoProvider(f"unix:{path}").start()
    assert not path.exists()


@pytest.mark.parametrize("listen", ["9000", "host:", "host:x", "host:70000", ":80"])
def test_addresses_are_checked(listen: str) -> None:
    with pytest.raises(ValueError, match="is not host:port"):
        parse_address(listen)


def test_the_command_explains_what_is_wrong() -> None:
    runner = CliRunner()
    for arguments, said in (
        (["--listen", "nowhere"], "is not host:port"),
        (["--first-byte", "soon"], "is not a duration"),
        (["--chunks", "0"], "--chunks"),
    ):
        result = runner.invoke(command, arguments)
        assert result.exit_code != 0
        assert said in result.output


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_the_process_resets_tcp_connections_too(signum: int) -> None:
    """In its own process it runs on uvloop, whose sockets are not asyncio's."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "control.demo.server", "--listen", "127.0.0.1:0", cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        ready = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        host, _, port = ready.strip().removeprefix("ready http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw_request("[[demo reset=mid_stream]]"))
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(-1), PATIENCE_S)
        writer.close()
        second = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "control.demo.server",
            "--listen",
            f"{host}:{port}",
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await asyncio.wait_for(second.communicate(), 30)
        assert second.returncode == 1
        assert said.startswith(f"Error: cannot listen on {host}:{port}: ".encode())
        assert said.count(b"\n") == 1
        process.send_signal(signum)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()


async def test_the_process_serves_and_ends_on_sigterm(tmp_path: Path) -> None:
    path = tmp_path / "demo.sock"
    arguments = ["--listen", f"unix:{path}", "--first-byte", "1ms", "--chunk-interval", "0.001", "--chunks", "3"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "control.demo.server",
        *arguments,
        cwd=ROOT,
        env=os.environ | {"GATEWAY_DEMO_API_KEY": "right"},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 30) == f"ready unix:{path}\n".encode()
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(base_url="http://localhost", transport=transport, timeout=PATIENCE_S) as http:
            assert (await http.post(PATH, json=body_of("Hello"))).status_code == 401
            headers = {"authorization": "Bearer right"}
            answer = await http.post(PATH, json=body_of("Hello", stream=True), headers=headers)
            assert answer.text.count('"delta":{"content":"') == 3
            with pytest.raises(httpx.RemoteProtocolError):  # the end: a unix socket knows no RST
                await http.post(PATH, json=body_of("[[demo reset=before_headers]]"), headers=headers)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()


def test_options_default_to_a_well_behaved_provider() -> None:
    assert Options().faults.is_error is False
    assert Options().api_key is None
