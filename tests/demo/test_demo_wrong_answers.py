"""Answers that are wrong, as a client's socket sees them: each fault of content, in every format."""

import asyncio
import email.utils
import gzip
import json
import socket
import time
import zlib

import httpx
import pytest

from control.demo.faults import Rule
from control.demo.server import DemoProvider
from tests.demo.wire import END, FORMATS, PATHS, PATIENCE_S, Wire, ask, body_of, wire

__all__ = ["wire"]


def chunks_of(raw: bytes) -> list[bytes]:
    """The chunks of a chunked body, without the last, empty one."""
    out = []
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        out.append(raw[: int(size, 16)])
        raw = raw[int(size, 16) + 2 :]
    assert out.pop() == b""
    return out


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("status", [400, 408, 429, 500, 503, 529])
async def test_status(http: httpx.AsyncClient, fmt: str, status: int) -> None:
    answer = await ask(http, fmt, f"[[demo status={status} message='so it is']]")
    assert answer.status_code == status
    assert answer.json()["error"]["message"] == "so it is"
    named = await ask(http, fmt, f"[[demo status={status} error_type=odd_error]]")
    assert "odd_error" in named.json()["error"].values()


async def test_retry_after_in_all_its_forms(http: httpx.AsyncClient) -> None:
    seconds = await ask(http, "openai", "[[demo status=429 retry_after=7 retry_after_ms=1500]]")
    assert (seconds.headers["retry-after"], seconds.headers["retry-after-ms"]) == ("7", "1500")
    date = await ask(http, "openai", "[[demo status=429 retry_after=date:3600]]")
    at = email.utils.parsedate_to_datetime(date.headers["retry-after"]).timestamp()
    assert 3000 < at - time.time() < 3700


async def test_a_proxys_page_instead_of_json(demo: DemoProvider, http: httpx.AsyncClient) -> None:
    demo.rules.set([Rule(status=502, body="<html>Bad Gateway</html>")])
    answer = await ask(http, "openai", "Hello")
    assert (answer.status_code, answer.text) == (502, "<html>Bad Gateway</html>")
    assert answer.headers["content-type"] == "text/html"
    demo.rules.set([Rule(status=500, body="{", content_type="application/json")])
    assert (await ask(http, "openai", "Hello")).headers["content-type"] == "application/json"


@pytest.mark.parametrize("fmt", FORMATS)
async def test_line_ends(http: httpx.AsyncClient, fmt: str) -> None:
    texts = {end: (await ask(http, fmt, f"Hello [[demo line_end={end}]]")).content for end in ("lf", "crlf", "cr")}
    assert b"\r" not in texts["lf"]
    assert b"\n" not in texts["cr"]
    assert texts["crlf"].count(b"\n") == texts["crlf"].count(b"\r\n") == texts["lf"].count(b"\n")
    short = await ask(http, fmt, "Hello [[demo crlf]]")
    assert short.content.count(b"\r\n") == texts["crlf"].count(b"\r\n")


@pytest.mark.parametrize("fmt", FORMATS)
async def test_one_byte_chunks(wire: Wire, fmt: str) -> None:
    wire.send(fmt, "Hello [[demo one_byte_chunks chunks=3]]")
    await wire.until(b"\r\n\r\n")
    chunks = chunks_of(await wire.until(b"\r\n0\r\n\r\n"))
    assert {len(chunk) for chunk in chunks} == {1}
    assert END[fmt] in b"".join(chunks)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("stream", [True, False])
async def test_characters_are_split_over_writes(demo: DemoProvider, fmt: str, stream: bool) -> None:
    host, _, port = demo.address.rpartition(":")
    arrived: list[bytes] = []
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, (host, int(port)))
        body = json.dumps(body_of(fmt, "Grüezi 🙂 [[demo split_utf8 chunks=5]]", stream=stream)).encode()
        path = PATHS[fmt] if stream else PATHS[fmt].replace("streamGenerate", "generate")
        await loop.sock_sendall(sock, Wire.head(path, len(body)) + body)
        while not b"".join(arrived).endswith(b"\r\n0\r\n\r\n"):
            arrived.append(await asyncio.wait_for(loop.sock_recv(sock, 65536), PATIENCE_S))
    chunks = chunks_of(b"".join(arrived).partition(b"\r\n\r\n")[2])
    assert "✓" in b"".join(chunks).decode()
    broken = [chunk for chunk in chunks if not _is_utf8(chunk)]
    assert len(broken) >= 2
    assert len(arrived) > 1  # apart on the wire, too


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("stream", [True, False])
async def test_gzip_though_not_asked_for(wire: Wire, fmt: str, stream: bool) -> None:
    wire.send(fmt, "Hello [[demo gzip]]", stream=stream)
    head = await wire.until(b"\r\n\r\n")
    assert b"content-encoding: gzip" in head
    if stream:
        chunks = chunks_of(await wire.until(b"\r\n0\r\n\r\n"))
        unpack = zlib.decompressobj(wbits=31)
        texts = [unpack.decompress(chunk) for chunk in chunks]
        assert all(texts)  # each event can be read when it comes
        assert END[fmt] in b"".join(texts)
    else:
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await asyncio.wait_for(wire.reader.readexactly(length), PATIENCE_S)
        assert json.loads(gzip.decompress(body))


@pytest.mark.parametrize("fmt", FORMATS)
async def test_malformed_events_and_bodies(http: httpx.AsyncClient, fmt: str) -> None:
    stream = await ask(http, fmt, "Hello [[demo malformed_sse]]")
    assert b"<html>" in stream.content
    assert END[fmt] in stream.content  # it goes on after that
    plain = await ask(http, fmt, "Hello [[demo malformed_sse]]", stream=False)
    with pytest.raises(json.JSONDecodeError):
        plain.json()


@pytest.mark.parametrize(
    ("fmt", "event"),
    [
        ("openai", b'data: {"error":{"message":'),
        ("anthropic", b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"'),
        ("google", b'data: {"error":{"code":503,"message":'),
    ],
)
async def test_an_error_inside_the_stream(http: httpx.AsyncClient, fmt: str, event: bytes) -> None:
    for at in (0, 3):
        answer = await ask(http, fmt, f"Hello [[demo error_in_stream at={at}]]")
        before, found, _ = answer.content.partition(event)
        assert answer.status_code == 200
        assert found
        assert before.count(b" You") == (1 if at else 0)
        assert END[fmt] not in answer.content


@pytest.mark.parametrize("fmt", FORMATS)
async def test_no_usage_and_no_end(http: httpx.AsyncClient, fmt: str) -> None:
    for stream in (True, False):
        bare = await ask(http, fmt, "Hello [[demo no_usage]]", stream=stream)
        assert b'"usage' not in bare.content
    endless = await ask(http, fmt, "Hello [[demo no_done]]")
    assert endless.status_code == 200
    assert END[fmt] not in endless.content


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("stream", [True, False])
async def test_huge(demo: DemoProvider, http: httpx.AsyncClient, fmt: str, stream: bool) -> None:
    demo.rules.set([Rule(huge=20_000_000)])
    body = body_of(fmt, "Hello", stream=stream)
    if fmt == "anthropic":
        body["max_tokens"] = 10_000_000
    path = PATHS[fmt] if stream else PATHS[fmt].replace("streamGenerate", "generate")
    answer = await http.post(path, json=body, headers={"anthropic-version": "2023-06-01"})
    assert len(answer.content) > 20_000_000
    assert demo.stats.report()["recent"][0]["completion_tokens"] == 5_000_000


async def test_reported_counts_can_be_set(http: httpx.AsyncClient) -> None:
    text = "Hello [[demo cached_tokens=2 reasoning_tokens=40]]"
    usage = (await ask(http, "openai", text, stream=False)).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 2
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 40


async def test_pace(demo: DemoProvider, wire: Wire) -> None:
    """Events come one by one, and no earlier than asked."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    wire.send("openai", "Hello [[demo first_byte_ms=60 chunk_interval_ms=20 chunks=4]]")
    await wire.until(b"\r\n\r\n")
    assert loop.time() - start >= 0.06
    await wire.until(b"[DONE]")
    assert loop.time() - start >= 0.06 + 6 * 0.02  # role, four words, finish, [DONE]: six gaps
