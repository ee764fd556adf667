"""Answers that were to pass by Envoy alone and went to the worker after all: kept and told as those that pass."""

import gzip
import json

import httpx
import pytest

from tests.envoy.cached import fresh
from tests.envoy.harness import Config, Gateway, ask, bearer, wait_until
from tests.envoy.scripted import Scripted, event, stream, whole
from tests.envoy.test_content import told
from tests.telemetry.collector import Collector

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
MESSAGE = {"role": "assistant", "content": "Hi."}
CHOICE = {"index": 0, "finish_reason": "stop"}
BODY = {"id": "c1", "choices": [{**CHOICE, "message": MESSAGE}], "usage": USAGE, "provider": "Somebody", "x": 1}
EVENTS = (event({"choices": [{**CHOICE, "delta": MESSAGE}]}), event({"choices": [], "usage": USAGE}), event("[DONE]"))


@pytest.fixture(scope="module")
def config(passing_config: Config, collector: Collector) -> Config:
    telemetry = {"otlp_endpoint": collector.url, "content": True}
    return passing_config | {"cache": {"exact": True, "coalesce_wait": "3s"}, "telemetry": telemetry}


@pytest.mark.parametrize("metadata", ["body", "headers"])
@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
def test_a_compressed_answer(
    gateway: Gateway, collector: Collector, scripted: Scripted, streamed: bool, metadata: str
) -> None:
    said = b"".join(EVENTS) if streamed else json.dumps(BODY).encode()
    packed = gzip.compress(said)
    scripted.says(*(stream(packed, content_encoding="gzip") if streamed else [whole(packed, content_encoding="gzip")]))
    body, headers = ask(fresh(), "odd", stream=streamed), bearer() | {"x-gateway-metadata": metadata}
    answers: list[httpx.Response] = []

    def hit() -> bool:
        answers.append(gateway.http.post("/v1/chat/completions", json=body, headers=headers))
        return answers[-1].headers["x-gateway-cache"] == "hit"

    wait_until(hit, 10, "the cache to answer")
    told_of = []
    for raw in (answers[0], answers[-1]):
        request_id = raw.headers["x-gateway-request-id"]
        told_of.append(json.loads(told(collector, request_id, "odd")["gen_ai.output.messages"]))
        assert gateway.row(request_id)["status"] == "success"
        if not streamed:
            assert raw.json() | {"x": 1, "choices": BODY["choices"]} == raw.json()
            assert raw.json()["provider"] == ("scripted" if metadata == "body" else "Somebody")
    assert told_of[0] == told_of[1]
    assert told_of[0][0]["parts"][0]["content"] == "Hi."


def test_a_stream_that_does_not_say_that_it_is_done(gateway: Gateway, collector: Collector, scripted: Scripted) -> None:
    """It passes, and Envoy tells the client."""
    known = {"id": "c1", "created": 1}
    scripted.says(
        *stream(event({**known, "choices": [{**CHOICE, "delta": MESSAGE}]}), event({"usage": USAGE, **known}))
    )
    body, answers = ask(fresh(), "odd", stream=True), list[httpx.Response]()

    def hit() -> bool:
        answers.append(gateway.http.post("/v1/chat/completions", json=body, headers=bearer()))
        return answers[-1].headers["x-gateway-cache"] == "hit"

    wait_until(hit, 10, "the cache to answer")
    assert all(raw.text.endswith("data: [DONE]\n\n") for raw in answers)
    messages = told(collector, answers[0].headers["x-gateway-request-id"], "odd")["gen_ai.output.messages"]
    assert json.loads(messages)[0]["parts"][0]["content"] == "Hi."
