"""Every fault, as a client's socket sees it; and where faults come from."""

import asyncio
import email.utils
import gzip
import json
import socket
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from control.demo import faults
from control.demo.faults import Faults, Rule, RuleBook
from control.demo.server import DemoProvider
from control.demo.simulator import Options

PATIENCE_S = 10  # how long a test waits for what must come
PATHS = {
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/messages",
    "google": "/v1beta/models/m:streamGenerateContent?alt=sse",
}
END = {"openai": b"data: [DONE]\n\n", "anthropic": b"message_stop", "google": b'"finishReason"'}
FORMATS = list(PATHS)

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]


def body_of(fmt: str, text: str, *, stream: bool = True, model: str = "m") -> dict[str, Any]:
    if fmt == "google":
        return {"contents": [{"role": "user", "parts": [{"text": text}]}]}
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream}
    return body | ({"max_tokens": 1000} if fmt == "anthropic" else {})


class Wire:
    """A raw connection that notes what came, and how it ended."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, fmt: str, text: str, *, stream: bool = True) -> None:
        body = json.dumps(body_of(fmt, text, stream=stream)).encode()
        path = PATHS[fmt] if stream else PATHS[fmt].replace("streamGenerate", "generate")
        self.writer.write(self.head(path, len(body)) + body)

    @staticmethod
    def head(path: str, length: int, extra: str = "") -> bytes:
        lines = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\nanthropic-version: 2023-06-01\r\ncontent-length: {length}\r\n{extra}"
        )
        return f"{lines}\r\n".encode()

    async def until(self, end: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(end), PATIENCE_S)

    async def rest(self) -> tuple[bytes, str]:
        """Everything until the end, and which end: fin or reset."""
        got = b""
        try:
            while data := await asyncio.wait_for(self.reader.read(65536), PATIENCE_S):
                got += data
        except ConnectionResetError:
            return got, "reset"
        return got, "fin"


@pytest.fixture
async def wire(demo: DemoProvider) -> AsyncIterator[Wire]:
    host, _, port = demo.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 26)
    yield Wire(reader, writer)
    writer.close()


def chunks_of(raw: bytes) -> list[bytes]:
    """The chunks of a chunked body, without the last, empty one."""
    out = []
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        out.append(raw[: int(size, 16)])
        raw = raw[int(size, 16) + 2 :]
    assert out.pop() == b""
    return out


async def ask(http: httpx.AsyncClient, fmt: str, text: str, *, stream: bool = True) -> httpx.Response:
    path = PATHS[fmt] if stream else PATHS[fmt].replace("streamGenerate", "generate")
    return await http.post(path, json=body_of(fmt, text, stream=stream), headers={"anthropic-version": "2023-06-01"})


# -- connections that end badly


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("moment", ["before_headers", "after_headers", "mid_stream"])
async def test_reset(wire: Wire, fmt: str, moment: str) -> None:
    wire.send(fmt, f"[[demo reset={moment}]]")
    got, end = await wire.rest()
    assert end == "reset"
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK") == (moment != "before_headers")
    assert bool(body) == (moment == "mid_stream")
    assert END[fmt] not in body


@pytest.mark.parametrize("fmt", FORMATS)
async def test_close_and_end_mid_stream(demo: DemoProvider, wire: Wire, http: httpx.AsyncClient, fmt: str) -> None:
    wire.send(fmt, "[[demo close_mid_stream at=4]]")
    got, end = await wire.rest()
    assert end == "fin"
    assert END[fmt] not in got
    assert not got.endswith(b"0\r\n\r\n")  # the chunked body is not ended
    with pytest.raises(httpx.RemoteProtocolError):
        await ask(http, fmt, "[[demo close_mid_stream]]")
    ended = await ask(http, fmt, "[[demo end_mid_stream]]")  # this one is, the answer in it is not
    assert ended.status_code == 200
    assert END[fmt] not in ended.content
    assert {one["outcome"] for one in demo.stats.report()["recent"]} == {"faulted"}


@pytest.mark.parametrize("fault", ["reset=mid_stream", "close_mid_stream"])
async def test_a_plain_answer_breaks_in_the_middle(wire: Wire, fault: str) -> None:
    wire.send("openai", f"[[demo {fault}]]", stream=False)
    got, end = await wire.rest()
    assert end == ("reset" if fault.startswith("reset") else "fin")
    head, _, body = got.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    assert 0 < len(body) < length


@pytest.mark.parametrize("moment", ["before_headers", "after_headers", "mid_stream"])
async def test_hang_and_the_client_going_away(
    demo: DemoProvider, wire: Wire, eventually: Eventually, moment: str
) -> None:
    wire.send("openai", f"[[demo hang={moment} at=5]]")
    if moment != "before_headers":
        await wire.until(b"\r\n\r\n")
    if moment == "mid_stream":
        for _ in range(6):  # the role, and five words
            await wire.until(b"}\n\n\r\n")
    await eventually(lambda: demo.stats.report()["open"] == 1)
    wire.writer.close()
    await eventually(lambda: demo.stats.report()["open"] == 0)
    seen = demo.stats.report()["recent"][0]
    assert (seen["closed_early"], seen["outcome"]) == (True, "aborted_by_client")
    assert seen["status"] == (0 if moment == "before_headers" else 200)
    assert (seen["completion_tokens"] > 0) == (moment == "mid_stream")


async def test_tokens_of_an_abandoned_stream_are_those_written(
    demo: DemoProvider, wire: Wire, eventually: Eventually
) -> None:
    wire.send("openai", "Hello there [[demo hang=mid_stream at=4]]")
    for _ in range(5):
        await wire.until(b"}\n\n\r\n")
    wire.writer.close()
    await eventually(lambda: demo.stats.report()["open"] == 0)
    written = "✓ You asked: “Hello"
    assert demo.stats.report()["recent"][0]["completion_tokens"] == (len(written.encode()) + 3) // 4


# -- answers that come too early


@pytest.mark.parametrize("close", [False, True])
async def test_an_answer_before_the_body_was_read(demo: DemoProvider, wire: Wire, close: bool) -> None:
    demo.rules.set([Rule(early_answer=True, early_close=close, status=429, format="openai")])
    body = json.dumps(body_of("openai", "x" * 500_000, stream=False)).encode()
    wire.writer.write(wire.head(PATHS["openai"], len(body)) + body[:1000])
    head = await wire.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429")
    await wire.until(b"}\n}")
    if close:
        assert (await wire.rest())[1] in ("fin", "reset")
        return
    demo.rules.set([])
    wire.writer.write(body[1000:])  # the rest is read and dropped, the connection goes on
    wire.send("openai", "Hello there", stream=False)
    assert (await wire.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_an_early_answer_by_marker_and_by_googles_path(demo: DemoProvider, wire: Wire) -> None:
    text = "[[demo early_answer status=500]]" + "x" * 200_000
    body = json.dumps(body_of("openai", text, stream=False)).encode()
    wire.writer.write(wire.head(PATHS["openai"], len(body)) + body[:50_000])
    assert (await wire.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 500")
    await wire.until(b"}\n}")
    wire.writer.write(body[50_000:])
    demo.rules.set([Rule(early_answer=True, model="m")])
    wire.writer.write(wire.head(PATHS["google"], 1000))
    assert (await wire.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 503")


async def test_expect_continue_is_answered_either_way(demo: DemoProvider, wire: Wire) -> None:
    body = json.dumps(body_of("openai", "Hello", stream=False)).encode()
    head = wire.head(PATHS["openai"], len(body), "expect: 100-continue\r\n")
    wire.writer.write(head)
    assert await wire.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.writer.write(body)
    assert (await wire.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


# -- answers that are wrong


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


# -- where faults come from


async def test_a_marker_for_one_format_spares_the_others(http: httpx.AsyncClient) -> None:
    for fmt in FORMATS:
        answer = await ask(http, fmt, "Hello [[demo fail_provider=openai status=503]]")
        assert answer.status_code == (503 if fmt == "openai" else 200)


async def test_a_marker_in_an_earlier_turn_is_history(http: httpx.AsyncClient) -> None:
    turns = ["[[demo status=503]]", "ok", "Hello"]
    roles = ["user", "assistant", "user"]
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)]
    assert (await http.post(PATHS["openai"], json={"model": "m", "messages": messages})).status_code == 200


@pytest.mark.parametrize("marker", ["[[demo statsu=503]]", "[[demo status=many]]", "[[demo message='open]]"])
async def test_a_wrong_marker_is_explained(http: httpx.AsyncClient, marker: str) -> None:
    answer = await ask(http, "openai", marker)
    assert answer.status_code == 400


@pytest.mark.parametrize(("model", "status"), [("fault-503", 503), ("x-fault-429", 429), ("gpt-4o", 200)])
async def test_a_models_name_can_ask_for_a_fault(http: httpx.AsyncClient, model: str, status: int) -> None:
    answer = await http.post(PATHS["openai"], json=body_of("openai", "Hello", model=model))
    assert answer.status_code == status


@pytest.mark.parametrize("preset", sorted(faults.PRESETS))
def test_presets_are_found_by_name(preset: str) -> None:
    assert faults.by_model(f"fault-{preset}") == faults.PRESETS[preset] != faults.NONE


async def test_rules_by_http(http: httpx.AsyncClient) -> None:
    rule = {"format": "openai", "model": "gpt-*", "skip": 1, "first": 2, "status": 503}
    assert (await http.put("/_demo/faults", json=rule)).json() == {"rules": [rule]}
    seen = [
        (await http.post(PATHS["openai"], json=body_of("openai", "Hello", model=model))).status_code
        for model in ("gpt-1", "other", "gpt-1", "gpt-2", "gpt-3")
    ]
    assert seen == [200, 200, 503, 503, 200]
    both = [rule, {"format": "anthropic", "status": 529}]
    assert (await http.put("/_demo/faults", json=both)).status_code == 200
    assert (await ask(http, "anthropic", "Hello")).status_code == 529
    assert (await http.get("/_demo/faults")).json() == {"rules": both}
    for wrong in ({"statsu": 503}, {"status": "x"}, {"hang": "sometimes"}, []):
        answer = await http.put("/_demo/faults", content=json.dumps(wrong) if wrong else "[")
        assert answer.status_code == 400
        assert answer.json()["error"]
    assert (await http.delete("/_demo/faults")).json() == {"rules": []}
    assert (await ask(http, "anthropic", "Hello")).status_code == 200


def test_chance_is_seeded() -> None:
    def hits(seed: int) -> list[bool]:
        book = RuleBook(seed)
        book.set([Rule(status=503, probability=0.3)])
        return [book.apply(faults.NONE, "openai", "m").is_error for _ in range(200)]

    assert hits(1) == hits(1) != hits(2)
    assert 30 < sum(hits(1)) < 90


def test_later_sources_win_field_by_field() -> None:
    base = Faults(first_byte_ms=10, status=500)
    merged = Faults(status=503, gzip=True).over(base)
    assert merged == Faults(first_byte_ms=10, status=503, gzip=True)
    assert faults.NONE.over(base) is base


async def test_defaults_of_the_process() -> None:
    options = Options(faults=Faults(status=503))
    async with DemoProvider(options=options) as provider, httpx.AsyncClient(base_url=provider.url) as http:
        assert (await ask(http, "openai", "Hello")).status_code == 503
        assert (await ask(http, "openai", "Hello [[demo status=429]]")).status_code == 429


async def test_a_provider_that_counts_more_tokens_than_others(http: httpx.AsyncClient) -> None:
    few = (await ask(http, "openai", "x" * 400, stream=False)).json()["usage"]["prompt_tokens"]
    many = (await ask(http, "openai", "x" * 400 + "[[demo input_bytes_per_token=1]]", stream=False)).json()["usage"]
    assert many["prompt_tokens"] >= 400 > 2 * few


def test_every_fault_is_named_in_the_tests() -> None:
    """So that a new fault does not come without being seen on a socket."""
    here = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in msgspec.structs.fields(Faults) if name.name not in here] == []
