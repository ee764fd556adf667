"""What Anthropic's own words become: events and whole messages, as chunks and usage."""

import json
from typing import Any

import pytest

from extproc.adapters.registry import adapter_for

from .asking import target


def stream(*events: dict[str, Any]) -> bytes:
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("pause_turn", "stop"),
        ("invented_tomorrow", "stop"),
        (None, "stop"),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_trap_4_stop_reasons(reason: str | None, expected: str, streamed: bool) -> None:
    adapter = adapter_for(target("anthropic"), "id", 1, streamed)
    if streamed:  # trap 3: the delta of message_delta has no type
        adapter.feed(stream({"type": "message_delta", "delta": {"stop_reason": reason}}, {"type": "message_stop"}))
    else:
        adapter.feed(json.dumps({"content": [], "stop_reason": reason}).encode())
    final = adapter.finish()
    assert (final.complete, final.finish_reason) == (True, expected)


def test_trap_3_the_event_line_names_an_event_whose_data_does_not() -> None:
    adapter = adapter_for(target("anthropic"), "id", 1, True)
    data = b'event: content_block_delta\ndata: {"index":0,"delta":{"text":"Hi"}}\n\nevent: message_stop\ndata: {}\n\n'
    assert adapter.feed(data)[0]["choices"][0]["delta"]["content"] == "Hi"
    assert adapter.finish().complete


def test_traps_10_11_13_usage_counts_all_input_and_totals_replace() -> None:
    adapter = adapter_for(target("anthropic"), "id", 1, True)
    start = {"input_tokens": 10, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 7, "output_tokens": 1}
    adapter.feed(
        stream(
            {"type": "message_start", "message": {"usage": start}},
            {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 5}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
            {"type": "message_stop"},
        )
    )
    usage = adapter.finish().usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (117, 9)
    assert (usage.cached_tokens, usage.cache_write_tokens) == (100, 7)


def test_a_cut_stream_tells_no_usage_for_what_was_counted_at_its_start_is_not_the_bill() -> None:
    adapter = adapter_for(target("anthropic"), "id", 1, True)
    adapter.feed(stream({"type": "message_start", "message": {"usage": {"input_tokens": 10, "output_tokens": 1}}}))
    assert adapter.finish().usage is None


@pytest.mark.parametrize("whole", [False, True])
def test_an_answer_without_usage_tells_none_so_that_it_is_estimated(whole: bool) -> None:
    adapter = adapter_for(target("anthropic"), "id", 1, not whole)
    said = {"content": [{"type": "text", "text": "x"}], "stop_reason": "end_turn"}
    chunks = adapter.feed(json.dumps(said).encode() if whole else stream({"type": "message_stop"}))
    final = adapter.finish()
    assert (final.usage, final.complete, final.error) == (None, True, None)
    assert not [chunk for chunk in (*chunks, *final.chunks) if "usage" in chunk]


def test_a_response_has_one_id_and_time_from_first_to_last() -> None:
    adapter = adapter_for(target("anthropic"), "chatcmpl-7", 99, True)
    deltas = [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": t}} for t in "abc"]
    chunks = adapter.feed(stream(*deltas, {"type": "message_stop"}))
    assert {(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks} == {("chatcmpl-7", 99, "the-model")}
