"""Every fault, as a client's socket sees it; and where faults come from."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import msgspec
import pytest

from control.demo import faults
from control.demo.faults import Faults, Rule, RuleBook
from control.demo.server import DemoProvider
from control.demo.simulator import Options
from tests.demo.wire import END, FORMATS, PATHS, Wire, ask, body_of, wire

__all__ = ["wire"]

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]


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
    files = [Path(__file__).with_name(name) for name in ("test_demo_faults.py", "test_demo_wrong_answers.py")]
    here = "".join(file.read_text(encoding="utf-8") for file in files)
    assert [name for name in msgspec.structs.fields(Faults) if name.name not in here] == []
