"""Recorded answers of real providers through the adapters, against a second, minimal reading of the same bytes."""

import base64
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from extproc.adapters.emit import ClientStream
from extproc.adapters.fold import fold
from extproc.adapters.registry import adapter_for
from extproc.chat import parse_chat

from .asking import target
from .cases import events
from .recordings import FIXTURES, Recording, found, of

RECORDINGS = found()
pytestmark = pytest.mark.skipif(not RECORDINGS, reason=f"no recorded exchanges at {FIXTURES}")


class Said(dict[str, Any]):
    """What an answer says: text, tool calls as (name, arguments), input and output tokens.

    Some providers write no arguments at all for a tool without any; that passes as it is.
    """


def objects(recording: Recording) -> Iterator[dict[str, Any]]:
    """The JSON objects of an answer, read line by line."""
    if not recording.streamed:
        yield json.loads(recording.body)
        return
    if b":event-type" in recording.body:
        yield from framed(recording.body)
        return
    for line in recording.body.decode().splitlines():
        if line.startswith("data:") and line[5:].strip() != "[DONE]":
            yield json.loads(line[5:])


def framed(body: bytes) -> Iterator[dict[str, Any]]:
    """Out of AWS's frames, which are believed: 12 bytes, headers, payload, 4 bytes."""
    while body:
        total, headers = struct.unpack(">II", body[:8])
        yield json.loads(base64.b64decode(json.loads(body[12 + headers : total - 4])["bytes"]))
        body = body[total:]


def said_by_openai(recording: Recording) -> Said:
    text, usage = "", None
    calls: dict[int, tuple[str, str]] = {}
    for chunk in objects(recording):
        usage = chunk.get("usage") or usage
        for choice in (chunk.get("choices") or ())[:1]:
            message = choice.get("delta") or choice.get("message") or {}
            content = message.get("content")
            text += content if isinstance(content, str) else json.dumps(content) if content else ""
            for position, call in enumerate(message.get("tool_calls") or ()):
                name, arguments = calls.get(call.get("index", position), ("", ""))
                function = call["function"]
                found_name = name or function.get("name") or ""
                calls[call.get("index", position)] = (found_name, arguments + (function.get("arguments") or ""))
    return Said(
        text=text,
        calls=[(name, json.loads(arguments or "{}")) for name, arguments in calls.values()],
        input=usage and usage["prompt_tokens"],
        output=usage and usage["completion_tokens"],
    )


def said_by_anthropic(recording: Recording) -> Said:
    blocks: dict[int, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    for event in objects(recording):
        kind = event["type"]
        if kind == "message":
            blocks = dict(enumerate(event["content"]))
        elif kind == "content_block_start":
            blocks[event["index"]] = {**event["content_block"], "json": ""}
        elif kind == "content_block_delta":
            delta = event["delta"]
            block = blocks[event["index"]]
            block["text"] = block.get("text", "") + delta.get("text", "")
            block["json"] += delta.get("partial_json", "")
        usage = event.get("usage") or event.get("message", {}).get("usage") or {}
        counts.update({name: tokens for name, tokens in usage.items() if isinstance(tokens, int)})
    tools = [block for block in blocks.values() if block["type"] == "tool_use"]
    return Said(
        text="".join(block["text"] for block in blocks.values() if block["type"] == "text"),
        calls=[(tool["name"], json.loads(tool["json"]) if tool.get("json") else tool["input"]) for tool in tools],
        input=sum(counts[name] for name in counts if name.endswith("input_tokens")),
        output=counts["output_tokens"],
    )


def said_by_google(recording: Recording) -> Said:
    parts: list[dict[str, Any]] = []
    usage: dict[str, int] = {}
    for response in objects(recording):
        parts += response["candidates"][0].get("content", {}).get("parts", [])
        usage = response["usageMetadata"]
    calls = [part["functionCall"] for part in parts if "functionCall" in part]
    thought_or_candidates = usage.get("candidatesTokenCount", 0) + usage.get("thoughtsTokenCount", 0)
    return Said(
        text="".join(part.get("text", "") for part in parts if not part.get("thought")),
        calls=[(call["name"], call.get("args", {})) for call in calls],
        input=usage["totalTokenCount"] - thought_or_candidates,
        output=thought_or_candidates,
    )


READERS: dict[str, Callable[[Recording], Said]] = {
    "openai": said_by_openai,
    "anthropic": said_by_anthropic,
    "google": said_by_google,
    "bedrock": said_by_anthropic,
}
ANSWERS = [
    pytest.param(fmt, recording, id=f"{fmt}-{recording.name}")
    for fmt in READERS
    for recording in of(fmt, RECORDINGS)
    if recording.status == 200
]


def said_to_the_client(fmt: str, recording: Recording) -> Said:
    """What the gateway's client reads, through the official types."""
    adapter = adapter_for(target(fmt), "chatcmpl-1", 1, recording.streamed)
    text, calls = "", dict[int, tuple[str, str]]()
    if recording.streamed:
        client = ClientStream(adapter, include_usage=True)
        middle = len(recording.body) // 2  # anywhere, also inside a character
        pieces = recording.body[:middle], recording.body[middle:]
        out = b"".join(client.feed(piece) for piece in pieces)
        rest, final = client.finish()
        assert events(out + rest)[-1] == "[DONE]"
        usage = None
        for event in events(out + rest)[:-1]:
            chunk = ChatCompletionChunk.construct(**event)
            usage = chunk.usage or usage
            for choice in chunk.choices[:1]:
                text += choice.delta.content or ""
                for call in choice.delta.tool_calls or ():
                    assert call.function is not None
                    name, arguments = calls.get(call.index, ("", ""))
                    calls[call.index] = (name or call.function.name or "", arguments + (call.function.arguments or ""))
    else:
        adapter.feed(recording.body)
        final = adapter.finish()
        assert final.error is None
        completion = ChatCompletion.construct(**fold([], final))
        usage = completion.usage
        message = completion.choices[0].message
        content: Any = message.content
        text = content if isinstance(content, str) else json.dumps(content) if content else ""
        for position, tool in enumerate(message.tool_calls or ()):
            assert tool.type == "function"
            calls[position] = (tool.function.name, tool.function.arguments)
    assert final.complete
    assert final.finish_reason in ("stop", "length", "tool_calls")
    if usage is not None:
        assert final.usage is not None
        assert usage.prompt_tokens == final.usage.input_tokens
    return Said(
        text=text,
        calls=[(name, json.loads(arguments or "{}")) for name, arguments in calls.values()],
        input=final.usage and final.usage.input_tokens,
        output=final.usage and final.usage.output_tokens,
    )


@pytest.mark.parametrize(("fmt", "recording"), ANSWERS)
def test_the_client_reads_what_was_recorded(fmt: str, recording: Recording) -> None:
    assert said_to_the_client(fmt, recording) == READERS[fmt](recording)


def test_there_are_recordings_of_every_format() -> None:
    formats = [param.values[0] for param in ANSWERS]
    assert {fmt: formats.count(fmt) > 15 for fmt in READERS} == dict.fromkeys(READERS, True)


@pytest.mark.parametrize(
    "recording", [pytest.param(item, id=item.name) for item in of("openai", RECORDINGS) if item.status == 200]
)
def test_recorded_requests_pass_unchanged_but_for_what_is_meant(recording: Recording) -> None:
    chat = parse_chat(json.dumps(recording.request).encode())
    sent = json.loads(adapter_for(target("openai"), "id", 1, chat.stream).request(chat).body)
    expected = {**recording.request, "model": "gpt-4o"}
    if recording.request.get("stream"):
        expected["stream_options"] = {**recording.request.get("stream_options", {}), "include_usage": True}
    assert sent == expected


@pytest.mark.parametrize(
    ("fmt", "recording"),
    [
        pytest.param(fmt, recording, id=f"{fmt}-{recording.name}")
        for fmt in READERS
        for recording in of(fmt, RECORDINGS)
        if recording.status >= 400
    ],
)
def test_recorded_errors_are_told(fmt: str, recording: Recording) -> None:
    found_error = adapter_for(target(fmt), "id", 1, False).error(recording.status, {}, recording.body)
    original = json.loads(recording.body)
    original = original.get("error", original)
    if recording.status in (400, 404):
        assert found_error.http_status == recording.status
        assert found_error.message == original["message"]
    else:
        assert found_error.http_status == 502
        assert original["message"] not in found_error.message
