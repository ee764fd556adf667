"""The gateway's fields in whole answers: the same whoever puts them in, Envoy where the answer passes, or a worker."""

import gzip
import json
from typing import Any

import pytest

from tests.envoy.harness import Config, Gateway, Simulator, ask, bearer
from tests.envoy.scripted import Scripted, event, whole
from tests.envoy.scripted import stream as streamed

OWN = {"model", "routed_from", "provider", "usage", "gateway_metadata"}
USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 10,
    "total_tokens": 1010,
    "prompt_tokens_details": {"cached_tokens": 400},
    "cost": 0.5,
}
SAID = 'Say "model": {"usage": [\\'
CHOICE = {"index": 0, "message": {"role": "assistant", "content": SAID}, "finish_reason": "stop"}
ANSWER = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "choices": [CHOICE],
    "provider": "Somebody else",
    "usage": USAGE,
    "model": "odd-2026-01-01",
    "x": {"usage": {"prompt_tokens": 1}, "model": "mine"},
}


@pytest.fixture(scope="module")
def config(passing_config: Config) -> Config:
    passing_config["response_metadata"] = "body"
    passing_config["models"][-1]["price"] = {"input": 2.0, "cached_input": 0.5, "output": 8.0}
    return passing_config


def answered(gateway: Gateway, model: str, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the client got, and its audit row."""
    raw = gateway.client().chat.completions.with_raw_response.create(**ask("hi", model), **more)
    return json.loads(raw.text), gateway.row(raw.headers["x-gateway-request-id"])


def fields_are_right(body: dict[str, Any], row: dict[str, Any]) -> None:
    assert body["usage"]["input_tokens"] == row["input_tokens"]
    assert body["usage"]["output_tokens"] == row["output_tokens"]
    assert body["usage"]["cost_usd"] == row["cost_usd"]
    assert (body["model"], body["provider"]) == (row["model_used"], row["provider_used"])
    assert body["routed_from"] == row["model_requested"]
    metadata = dict(body["gateway_metadata"])
    assert 0 < metadata.pop("gateway_latency_ms") <= metadata.pop("total_latency_ms")
    assert metadata == {
        "request_id": row["request_id"],
        "routing_decision": "fallback" if row["status"] == "fallback" else row["routing_decision"],
        "cache_hit": False,
        "attempts": row["attempts"],
    }


@pytest.mark.parametrize(("model", "dead"), [("gpt", False), ("claude", False), ("dead-ha", True), ("gpt-ha", True)])
def test_whoever_answers(gateway: Gateway, primary: Simulator, model: str, dead: bool) -> None:
    """A provider of the client's format, of another, and stand-ins of both."""
    if dead:
        primary.faults({"format": "openai", "status": 503})
    body, row = answered(gateway, model)
    fields_are_right(body, row)
    assert row["attempts"] == 1 + dead
    assert row["finish_reason"] == "stop"
    assert row["cost_usd"] > 0


TOO_LARGE = [CHOICE, {**CHOICE, "index": 1, "message": {"role": "assistant", "content": "x" * (1 << 20)}}]


@pytest.mark.parametrize(
    ("change", "headers", "native"),
    [
        ({}, {}, True),
        ({}, {"content-type": "application/json; charset=utf-8"}, True),
        ({}, {"content-encoding": "gzip"}, False),
        ({"choices": TOO_LARGE}, {}, False),
    ],
    ids=["as it is", "charset", "compressed", "large"],
)
def test_all_else_is_the_providers(
    gateway: Gateway, scripted: Scripted, change: dict[str, Any], headers: dict[str, str], native: bool
) -> None:
    said = ANSWER | change
    raw = json.dumps(said).encode()
    scripted.says(whole(gzip.compress(raw) if "content-encoding" in headers else raw, **headers))
    body, row = answered(gateway, "odd")
    fields_are_right(body, row)
    assert row["native"] is native
    assert body["usage"] | USAGE == body["usage"]
    assert body["usage"]["cost_usd"] == (600 * 2.0 + 400 * 0.5 + 10 * 8.0) / 1e6
    assert {name: value for name, value in body.items() if name not in OWN} == {
        name: value for name, value in said.items() if name not in OWN
    }


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_the_gateway_does_not_know_reaches_the_provider(
    gateway: Gateway, scripted: Scripted, stream: bool
) -> None:
    """At every depth, as it was written; of a stream usage is asked for beside what the client asked for."""
    scripted.says(*(streamed(event("[DONE]")) if stream else [whole(json.dumps(ANSWER).encode())]))
    strange = {"n": 1e5, "m": 12345678901234567890, "o": [None, {"model": "m", "stream": False}]}
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi", "x": strange}], "x": strange}]
    tools = [{"type": "function", "function": {"name": "f", "x": strange}, "x": strange}]
    asked = {"model": "odd", "messages": messages, "tools": tools, "x": strange, "reasoning": {"effort": "low"}}
    if stream:
        asked |= {"stream": True, "stream_options": {"x": strange}}
    gateway.http.post("/v1/chat/completions", json=asked, headers=bearer())
    usage = {"stream_options": {"x": strange, "include_usage": True}} if stream else {}
    assert scripted.calls[-1].body == asked | usage


@pytest.mark.parametrize(
    ("usage", "native"),
    [
        ('"usage": {"prompt_tokens": 1e18, "completion_tokens": 7}', True),
        ('"usage": {"prompt_tokens": 1}, "usage": {"prompt_tokens": 5, "completion_tokens": 7}', True),
        (r'"us\u0061ge": {"prompt_tokens": 5, "completion_tokens": 7}', False),
    ],
    ids=["no count", "twice", "escaped"],
)
def test_however_its_usage_is_written(gateway: Gateway, scripted: Scripted, usage: str, native: bool) -> None:
    scripted.says(whole(f'{{"choices": [{json.dumps(CHOICE)}], "error": null, {usage}}}'.encode()))
    body, row = answered(gateway, "odd")
    fields_are_right(body, row)
    assert row["native"] is native


def test_a_large_answer_has_fields_too(gateway: Gateway, scripted: Scripted) -> None:
    """Larger than what Envoy takes from a process of ours unless it is told to."""
    scripted.says(whole(json.dumps(ANSWER | {"pad": "x" * (33 << 20)}).encode()))
    body, row = answered(gateway, "odd")
    fields_are_right(body, row)


def test_an_answer_that_tells_no_usage_has_fields_too(gateway: Gateway, scripted: Scripted) -> None:
    scripted.says(whole(json.dumps({**ANSWER, "usage": None}).encode()))
    body, row = answered(gateway, "odd")
    assert (body["model"], body["routed_from"], body["provider"]) == ("odd", "odd", "scripted")
    assert body["gateway_metadata"]["request_id"] == row["request_id"]
    assert row["estimated"]
    assert body["usage"]["cost_usd"] is None  # what is estimated stands in the row


def test_a_request_may_do_without(gateway: Gateway, scripted: Scripted) -> None:
    scripted.says(whole(json.dumps(ANSWER).encode()))
    body, row = answered(gateway, "odd", extra_headers={"x-gateway-metadata": "headers"})
    assert body == ANSWER
    assert row["native"]
