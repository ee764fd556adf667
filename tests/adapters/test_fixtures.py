"""Every fixture, fed whole, byte by byte and in any cut: the same bytes to the client and the same usage."""

import json
from typing import Any

import httpx2 as httpx
import msgspec
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from extproc.adapters.registry import adapter_for
from extproc.records import Usage

from .cases import CREATED, FIXTURES, RESPONSE_ID, Case, at, cases, events, run

ALL = cases()
STREAMS = [case for case in ALL if case.stream]
every_case = pytest.mark.parametrize("case", ALL, ids=[case.name for case in ALL])
every_stream = pytest.mark.parametrize("case", STREAMS, ids=[case.name for case in STREAMS])


def client_file(case: Case) -> bytes:
    return (case.path / ("client.sse" if case.stream else "client.json")).read_bytes()


def test_every_folder_is_a_case() -> None:
    folders = {path for path in FIXTURES.glob("*/*") if path.is_dir()}
    assert {case.path for case in ALL} == folders


@every_case
def test_the_provider_gets(case: Case) -> None:
    request, _, _ = run(case, [case.upstream])
    assert json.loads(request.body) == json.loads((case.path / "provider.json").read_bytes())


@every_case
def test_the_client_gets(case: Case) -> None:
    _, out, final = run(case, [case.upstream])
    assert out == client_file(case)
    expect = case.expect
    assert final.complete is expect["complete"]
    assert final.finish_reason == expect.get("finish_reason")
    assert final.usage == (msgspec.convert(expect["usage"], Usage) if "usage" in expect else None)
    code = final.error.payload()["error"]["code"] if final.error else None
    assert code == expect.get("error_code")


@every_case
def test_byte_by_byte_it_is_the_same(case: Case) -> None:
    _, whole, final = run(case, [case.upstream])
    _, out, final_too = run(case, at(case.upstream, range(1, len(case.upstream))))
    assert out == whole
    assert (final_too.usage, final_too.finish_reason) == (final.usage, final.finish_reason)


@every_case
@settings(max_examples=20)
@given(data=st.data())
def test_in_any_cut_it_is_the_same(case: Case, data: st.DataObject) -> None:
    cuts = data.draw(st.sets(st.integers(0, len(case.upstream)), max_size=8))
    _, out, final = run(case, at(case.upstream, cuts))
    assert out == client_file(case)
    assert final.usage == run(case, [case.upstream])[2].usage


@every_stream
@settings(max_examples=20)
@given(data=st.data())
def test_broken_off_anywhere_it_is_an_error_or_complete(case: Case, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(case.upstream)))
    _, out, final = run(case, [case.upstream[:length]])
    found = events(out)
    assert final.complete == (found[-1] == "[DONE]")
    assert final.complete or found[-1]["error"]["message"]
    assert sum("error" in event for event in found if event != "[DONE]") == (not final.complete)


@every_stream
@settings(max_examples=20)
@given(data=st.data())
def test_no_bytes_of_a_provider_raise(case: Case, data: st.DataObject) -> None:
    broken = bytearray(case.upstream)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.sampled_from(b'"{}[]:,0x\\\n\xff'))
    _, out, _ = run(case, [bytes(broken)])
    assert events(out)


def choices_of(found: list[Any]) -> dict[int, list[dict[str, Any]]]:
    by_index: dict[int, list[dict[str, Any]]] = {}
    for event in found:
        for choice in event.get("choices", ()) if isinstance(event, dict) else ():
            by_index.setdefault(choice["index"], []).append(choice)
    return by_index


@every_stream
def test_a_stream_has_one_end_and_its_tool_calls_are_json(case: Case) -> None:
    _, out, final = run(case, [case.upstream])
    found = events(out)
    assert found.count("[DONE]") == (1 if final.complete else 0)
    for choices in choices_of(found).values():
        assert sum(choice.get("finish_reason") is not None for choice in choices) == (1 if final.complete else 0)
        assert [choice["delta"]["role"] for choice in choices if choice["delta"].get("role")] == ["assistant"]
        if not final.complete:
            continue
        arguments: dict[int, str] = {}
        for call in (call for choice in choices for call in choice["delta"].get("tool_calls") or ()):
            assert (call["index"] in arguments) == ("id" not in call)
            arguments[call["index"]] = arguments.get(call["index"], "") + call["function"]["arguments"]
        assert list(arguments) == list(range(len(arguments)))
        assert all(isinstance(json.loads(text), dict) for text in arguments.values())


@every_stream
def test_trap_19_an_answer_is_complete_with_its_own_last_word(case: Case) -> None:
    """Not only with the end of the connection, which a provider may keep open. Google's streams have no last word."""
    adapter = adapter_for(case.target, RESPONSE_ID, CREATED, True)
    adapter.feed(case.upstream)
    said = b"message_stop" in case.upstream or b"[DONE]" in case.upstream
    assert adapter.complete == (said and "error_code" not in case.expect)


@every_stream
def test_usage_goes_only_to_those_who_asked(case: Case) -> None:
    _, out, final = run(case, [case.upstream])
    chunks = [event for event in events(out) if isinstance(event, dict) and "choices" in event]
    if not case.chat.include_usage:
        assert not any("usage" in chunk for chunk in chunks)
    elif final.complete:
        assert [chunk["choices"] for chunk in chunks if chunk["usage"]] == [[]]
        assert chunks[-1]["usage"]["prompt_tokens"] == case.expect["usage"]["input_tokens"]


def strictly(model: type[openai.BaseModel], value: dict[str, Any]) -> None:
    """Required fields there, types right: pydantic's own strict check, which the SDK itself leaves out."""
    model.model_validate_json(json.dumps(value), strict=True)


@every_case
def test_the_official_types_accept_it(case: Case) -> None:
    _, out, _ = run(case, [case.upstream])
    if not case.stream:
        strictly(ChatCompletion, json.loads(out))
        return
    for event in events(out):
        if isinstance(event, dict) and "choices" in event:
            strictly(ChatCompletionChunk, event)


def sdk(body: bytes, content_type: str) -> openai.OpenAI:
    """The official client, with a transport that answers with `body` in small pieces."""
    pieces = (body[start : start + 7] for start in range(0, len(body), 7))
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, headers={"content-type": content_type}, content=pieces)
    )
    return openai.OpenAI(api_key="k", base_url="http://gateway/v1", http_client=httpx.Client(transport=transport))


@every_stream
def test_the_official_client_reads_it(case: Case) -> None:
    _, out, final = run(case, [case.upstream])
    stream = sdk(out, "text/event-stream").chat.completions.create(
        model="m", messages=[{"role": "user", "content": "x"}], stream=True
    )
    text = ""
    if not final.complete:
        with pytest.raises(openai.APIError) as caught:
            list(stream)
        assert final.error is not None
        assert caught.value.code == final.error.payload()["error"]["code"]
        return
    for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert text == "".join(
        choice["delta"].get("content") or "" for choices in choices_of(events(out)).values() for choice in choices
    )


def test_trap_12_streamed_and_whole_answers_of_the_same_counts_cost_the_same() -> None:
    """The same provider counts, once in events and once in a body."""
    usage = {"input_tokens": 25, "cache_read_input_tokens": 100, "output_tokens": 15}
    message = {
        "type": "message",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "usage": usage,
    }
    stream: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "content": [], "usage": {**usage, "output_tokens": 1}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 15}},
        {"type": "message_stop"},
    ]
    case = next(case for case in ALL if case.name == "anthropic-text")
    finals = []
    for streamed, body in (
        (True, "".join(f"data: {json.dumps(event)}\n\n" for event in stream)),
        (False, json.dumps(message)),
    ):
        adapter = adapter_for(case.target, RESPONSE_ID, CREATED, streamed)
        adapter.feed(body.encode())
        finals.append(adapter.finish())
    assert finals[0].usage == finals[1].usage == Usage(input_tokens=125, output_tokens=15, cached_tokens=100)


def by_name(name: str) -> Case:
    return next(case for case in ALL if case.name == name)


def test_trap_1_tools_are_counted_over_tools_not_over_content_blocks() -> None:
    case = by_name("anthropic-parallel_tools")
    blocks = [json.loads(line[6:]) for line in case.upstream.decode().splitlines() if line.startswith("data: ")]
    tools = [b["index"] for b in blocks if b.get("content_block", {}).get("type") == "tool_use"]
    _, out, _ = run(case, [case.upstream])
    calls = [c for choices in choices_of(events(out)).values() for c in choices if c["delta"].get("tool_calls")]
    started = [call["index"] for choice in calls for call in choice["delta"]["tool_calls"] if "id" in call]
    assert (tools, started) == ([2, 3, 4], [0, 1, 2])


@pytest.mark.parametrize("name", ["anthropic-text", "google-text", "openai-text"])
def test_trap_15_a_character_split_over_chunks_is_whole(name: str) -> None:
    case = by_name(name)
    inside = [index for index, byte in enumerate(case.upstream) if byte & 0xC0 == 0x80]
    assert inside
    for cut in inside:
        assert "👋🏽".encode() in run(case, at(case.upstream, [cut]))[1]


@every_stream
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("colon", [b"data:", b"data: "])
def test_trap_16_line_ends_and_spaces_mean_nothing(case: Case, line_end: bytes, colon: bytes) -> None:
    plain = case.upstream.replace(b"\r\n", b"\n").replace(b"data: ", b"data:")
    varied = plain.replace(b"\ndata:", b"\n" + colon).replace(b"\n", line_end)
    assert run(case, [varied])[1] == client_file(case)


@every_stream
def test_trap_17_comments_and_pings_are_not_answers(case: Case) -> None:
    ping = b': keep-alive\n\nevent: ping\ndata: {"type": "ping"}\n\n'
    lines = case.upstream.replace(b"\r\n", b"\n").split(b"\n\n")
    noisy = ping + (b"\n\n" + ping).join(lines)
    assert run(case, [noisy])[1] == client_file(case)


@every_stream
def test_trap_18_json_may_be_split_over_frames(case: Case) -> None:
    braces = [index for index, byte in enumerate(case.upstream) if byte in b'{"']
    assert run(case, at(case.upstream, braces))[1] == client_file(case)
