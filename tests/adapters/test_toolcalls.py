"""Tool calls of servers that number them otherwise than OpenAI."""

import json
from typing import Any

import pytest

from extproc.adapters.emit import ClientStream
from extproc.adapters.fold import fold
from extproc.adapters.registry import adapter_for

from .asking import target
from .cases import events

WANTED = {"add": {"a": 1}, "multiply": {"b": 2}}


def piece(
    arguments: Any, index: int | None = None, call_id: str | None = None, name: str | None = None
) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    given = {
        "index": index,
        "id": call_id,
        "function": {key: value for key, value in function.items() if value is not None},
    }
    return {key: value for key, value in given.items() if value is not None}


STREAMS: dict[str, list[dict[str, Any]]] = {
    "OpenAI": [
        piece("", 0, "1", "add"),
        piece('{"a"', 0),
        piece(":1}", 0),
        piece("", 1, "2", "multiply"),
        piece('{"b":2}', 1),
    ],
    "interleaved": [
        piece("", 0, "1", "add"),
        piece("", 1, "2", "multiply"),
        piece('{"a"', 0),
        piece('{"b":2}', 1),
        piece(":1}", 0),
    ],
    "Ollama: the same index": [piece('{"a":1}', 0, "1", "add"), piece('{"b":2}', 0, "2", "multiply")],
    "Gemini: no index": [piece('{"a":1}', None, "1", "add"), piece('{"b":2}', None, "2", "multiply")],
    "no index, in pieces": [
        piece("", None, "1", "add"),
        piece('{"a"'),
        piece(":1}"),
        piece("", None, "2", "multiply"),
        piece('{"b":2}'),
    ],
    "SGLang: an id on every piece": [
        piece('{"a"', None, "1", "add"),
        piece(":1}", None, "1"),
        piece('{"b"', None, "2", "multiply"),
        piece(":2}", None, "2"),
    ],
    "an id of its own for each piece": [
        piece('{"a"', 0, "1", "add"),
        piece(":1}", 0, "x"),
        piece('{"b"', 1, "2", "multiply"),
        piece(":2}", 1, "y"),
    ],
    "from 1": [piece("", 1, "1", "add"), piece('{"a":1}', 1), piece("", 2, "2", "multiply"), piece('{"b":2}', 2)],
    "llama.cpp: an object": [piece({"a": 1}, 0, "1", "add"), piece({"b": 2}, 1, "2", "multiply")],
    "one id": [piece('{"a":1}', 0, "1", "add"), piece('{"b":2}', 1, "1", "multiply")],
    "no id": [piece('{"a":1}', 0, None, "add"), piece('{"b":2}', 1, None, "multiply")],
}


@pytest.mark.parametrize("at_once", [False, True], ids=["a chunk each", "one chunk"])
@pytest.mark.parametrize("pieces", STREAMS.values(), ids=STREAMS)
def test_trap_1_a_client_that_goes_by_the_index_joins_them(pieces: list[dict[str, Any]], at_once: bool) -> None:
    client = ClientStream(adapter_for(target("openai"), "id", 1, True), include_usage=False)
    groups = [pieces] if at_once else [[each] for each in pieces]
    deltas: list[dict[str, Any]] = [{"tool_calls": group} for group in groups]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    data = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    found: list[list[str]] = []
    for said in events(client.feed(data.encode()) + client.finish()[0])[:-1]:
        for call in said["choices"][0]["delta"].get("tool_calls", ()):
            if call["index"] == len(found):
                found.append([call["function"]["name"], ""])
            found[call["index"]][1] += call["function"].get("arguments", "")
    assert {name: json.loads(arguments) for name, arguments in found} == WANTED


def test_the_choices_of_an_answer_count_by_themselves() -> None:
    adapter = adapter_for(target("openai"), "id", 1, True)
    choices = [{"index": at, "delta": {"tool_calls": [piece("{}", None, "1", "f")]}} for at in (0, 1)]
    (chunk,) = adapter.feed(f"data: {json.dumps({'choices': choices})}\n\n".encode())
    assert [each["delta"]["tool_calls"][0]["index"] for each in chunk["choices"]] == [0, 0]


def test_arguments_of_a_whole_answer_are_text() -> None:
    adapter = adapter_for(target("openai"), "id", 1, False)
    calls = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
    answer = {
        "choices": [{"index": 0, "message": {"content": None, "tool_calls": calls}, "finish_reason": "tool_calls"}]
    }
    chunks = adapter.feed(json.dumps(answer).encode())
    (call,) = fold(chunks, adapter.finish())["choices"][0]["message"]["tool_calls"]
    assert call == {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
