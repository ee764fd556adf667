"""Answers that pass by Envoy alone, for the worker ended its part at the request: what that changes, and what not."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.envoy.harness import (
    Config,
    Gateway,
    Simulator,
    ask,
    at_once,
    bearer,
    impatient,
    marker,
    raw_post,
    wait_until,
)
from tests.envoy.scripted import Scripted, event, stream, whole

TOLD = ("x-gateway-request-id", "x-gateway-model", "x-gateway-provider", "x-gateway-routing", "x-gateway-attempts")
OURS = ("x-gw-", "x-envoy-", "set-cookie", "openai-")
pytestmark = pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])


@pytest.fixture(scope="module")
def config(passing_config: Config) -> Config:
    """`odd` has two models that stand in for it. Whole answers carry the gateway's fields."""
    passing_config["response_metadata"] = "body"
    passing_config["models"].append({"name": "spare", "provider": "openai-b"})
    passing_config["equivalents"].append({"models": ["odd", "spare", "claude-b"]})
    return impatient(passing_config)


def said(gateway: Gateway, text: str, model: str, streamed: bool, **more: Any) -> tuple[str, dict[str, str], Any]:
    """Text, headers and usage, by the official client."""
    create = gateway.client().chat.completions.with_raw_response.create
    if not streamed:
        raw = create(**ask(text, model, **more))
        whole: Any = raw.parse()
        return whole.choices[0].message.content, dict(raw.headers), whole.usage
    raw = create(**ask(text, model, stream=True, **more))
    chunks: Any = list(raw.parse())
    usage = chunks[-1].usage
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), dict(raw.headers), usage


def chunk(text: str, finish: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


def test_the_client_is_told_of_its_request_and_of_nothing_else(gateway: Gateway, streamed: bool) -> None:
    _, headers, _ = said(gateway, "hi", "gpt", streamed)
    assert not [name for name in TOLD if name not in headers]
    assert not [name for name in headers if name.startswith(OURS)]
    assert (headers["x-gateway-model"], headers["x-gateway-provider"]) == ("gpt", "openai")
    row = gateway.row(headers["x-gateway-request-id"])
    assert (row["status"], row["native"], row["attempts"], row["estimated"]) == ("success", True, 1, False)


@pytest.mark.parametrize("fault", [{"status": 503}, {"hang": "before_headers"}, {"reset": "before_headers"}], ids=str)
@pytest.mark.parametrize("model", ["dead-ha", "gpt-ha"])
def test_a_stand_in_answers(
    gateway: Gateway, primary: Simulator, model: str, fault: dict[str, Any], streamed: bool
) -> None:
    """Of the same format, and of another, which is translated behind the loopback."""
    primary.faults({"format": "openai"} | fault)
    stand_in, native = {"dead-ha": ("gpt-b", True), "gpt-ha": ("claude-b", False)}[model]
    expected, _, spent = said(gateway, "A long story", stand_in, False)
    asks = {"stream_options": {"include_usage": True}} if streamed else {}
    text, headers, usage = said(gateway, "A long story", model, streamed, **asks)
    assert text == expected
    assert usage.completion_tokens == spent.completion_tokens
    assert (headers["x-gateway-model"], headers["x-gateway-attempts"]) == (stand_in, "2")
    assert headers["x-gateway-routing"] == "fallback"
    assert not [name for name in headers if name.startswith(OURS)]
    row = gateway.row(headers["x-gateway-request-id"])
    assert (row["status"], row["native"], row["attempts"]) == ("fallback", native, 2)
    assert (row["model_used"], row["output_tokens"]) == (stand_in, usage.completion_tokens)
    assert row["cost_usd"] == pytest.approx((row["input_tokens"] + 4 * row["output_tokens"]) / 1e6)


def test_usage_of_a_translated_stand_in_is_hidden_from_who_did_not_ask(
    gateway: Gateway, primary: Simulator, streamed: bool
) -> None:
    primary.faults({"format": "openai", "status": 500})
    raw = gateway.http.post("/v1/chat/completions", json=ask("hi", "gpt-ha", stream=streamed), headers=bearer())
    assert raw.status_code == 200
    assert ('"usage"' in raw.text) is not streamed
    assert streamed is raw.text.endswith("data: [DONE]\n\n")


def test_two_stand_ins_fail_and_the_error_is_the_last_ones(
    gateway: Gateway, primary: Simulator, second: Simulator, streamed: bool
) -> None:
    for simulator in (primary, second):
        simulator.faults({"status": 529, "message": "Overloaded today"})
    with pytest.raises(openai.APIStatusError) as caught:
        said(gateway, "hi", "gpt-ha", streamed)
    assert caught.value.response.headers["x-gateway-attempts"] == "3"
    assert not [name for name in caught.value.response.headers if name.startswith(OURS)]
    row = gateway.row(caught.value.response.headers["x-gateway-request-id"])
    assert (row["status"], row["attempts"], row["error_code"]) == ("failed", 3, caught.value.code)


def test_the_clients_own_mistake_is_told_in_the_providers_words(
    gateway: Gateway, primary: Simulator, streamed: bool
) -> None:
    primary.faults({"status": 400, "message": "Say it otherwise"})
    with pytest.raises(openai.BadRequestError, match="Say it otherwise") as caught:
        said(gateway, "hi", "gpt", streamed)
    row = gateway.row(caught.value.response.headers["x-gateway-request-id"])
    assert (row["status"], row["http_status"], row["output_tokens"]) == ("failed", 400, 0)


def test_an_answer_goes_on_when_its_worker_is_killed(gateway: Gateway, primary: Simulator, streamed: bool) -> None:
    text = f"A story {marker(first_byte_ms=1500, chunks=20, chunk_interval_ms=50)}"
    workers = [one for index in (0, 1) for one in gateway.processes(f"gateway worker {index}")]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(said, gateway, text, "gpt", streamed)
        wait_until(lambda: primary.stats()["open"] == 1, 10, "the provider to be asked")
        for worker in workers:
            worker.kill()
        answered, headers, _ = running.result()
    assert answered
    row = gateway.row(headers["x-gateway-request-id"])
    assert (row["status"], row["estimated"]) == ("success", False)
    _whole_again(gateway)


def test_an_error_is_an_error_when_the_worker_is_killed_before_it(
    gateway: Gateway, primary: Simulator, streamed: bool
) -> None:
    primary.faults({"status": 400, "first_byte_ms": 1500})
    workers = [one for index in (0, 1) for one in gateway.processes(f"gateway worker {index}")]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(said, gateway, "hi", "gpt", streamed)
        wait_until(lambda: primary.stats()["open"] == 1, 10, "the provider to be asked")
        for worker in workers:
            worker.kill()
        with pytest.raises(openai.APIStatusError) as caught:
            running.result()
    # Its successor knows the status alone; where there is none yet, not even that.
    assert (caught.value.status_code, caught.value.code) in ((400, "invalid_request_error"), (502, "answer_unread"))
    assert gateway.row(caught.value.response.headers["x-gateway-request-id"])["status"] == "failed"
    primary.reset()
    _whole_again(gateway)


def _whole_again(gateway: Gateway) -> None:
    """Both workers take requests: what goes to one that is not there yet has no row, for it took nothing."""

    def answers() -> bool:
        try:
            return all(text for text, _, _ in at_once(lambda: said(gateway, "hi", "gpt", True)))
        except openai.APIError:
            return False

    wait_until(lambda: len(gateway.processes("gateway worker")) == 2 and answers(), 20, "the workers to come back")


def test_a_client_that_leaves_before_the_answer(gateway: Gateway, primary: Simulator, streamed: bool) -> None:
    known = {row["request_id"] for row in gateway.rows()}
    with raw_post(gateway, ask(f"hi {marker(first_byte_ms=1500)}", stream=streamed)):
        wait_until(primary.recent, 10, "the provider to be asked")
    new: list[dict[str, Any]] = []

    def row() -> bool:
        new[:] = [row for row in gateway.rows() if row["request_id"] not in known and row["status"] != "success"]
        return bool(new)

    wait_until(row, 20, "its row")
    assert [(each["status"], each["attempts"], each["http_status"]) for each in new] == [("cancelled", 1, None)]


def test_headers_of_a_provider_cannot_say_who_answered(gateway: Gateway, scripted: Scripted, streamed: bool) -> None:
    told = {"x_gateway_model": "another", "x_envoy_attempt_count": "9", "set_cookie": "a=b", "openai_organization": "o"}
    told |= {"x_gw_target": "3", "x_gw_told": "0123456789abcdef 3\tx-gateway-model: another\tset-cookie: c=d"}
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}]}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    if streamed:
        end = event({"choices": [], "usage": usage})
        scripted.says(*stream(chunk("Hi.", "stop"), end, b"data: [DONE]\n\n", **told))
    else:
        scripted.says(whole(json.dumps(body | {"usage": usage}).encode(), **told))
    text, headers, _ = said(gateway, "hi", "odd", streamed)
    assert (text, headers["x-gateway-model"], headers["x-gateway-attempts"]) == ("Hi.", "odd", "1")
    assert not [name for name in headers if name.startswith(OURS)]
    row = gateway.row(headers["x-gateway-request-id"])
    assert (row["status"], row["input_tokens"], row["output_tokens"]) == ("success", 3, 2)
    assert (row["model_used"], row["attempts"]) == ("odd", 1)


def test_a_200_that_says_nothing_is_no_success(gateway: Gateway, scripted: Scripted, streamed: bool) -> None:
    kind = "text/event-stream" if streamed else "application/json"
    scripted.says(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: 0\r\n\r\n".encode())
    raw = gateway.http.post("/v1/chat/completions", json=ask("hi", "odd", stream=streamed), headers=bearer())
    assert "provider_error" in raw.text
    assert gateway.row(raw.headers["x-gateway-request-id"])["status"] == "failed"
