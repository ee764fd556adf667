"""Where an answer tells of its request: in its body, or in headers alone, which lets a same-format answer pass by."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.envoy.harness import Config, Gateway, Simulator, running, wait_until

FIELDS = ("gateway_metadata", "routed_from", "provider")
HEADERS = ("x-gateway-request-id", "x-gateway-model", "x-gateway-provider", "x-gateway-routing", "x-gateway-attempts")


@pytest.fixture(scope="module")
def quiet(new_config: Callable[[], Config]) -> Iterator[Gateway]:
    with running(new_config() | {"response_metadata": "headers", "cache": {"exact": False}}) as gateway:
        yield gateway


def ask(gateway: Gateway, model: str, **options: Any) -> tuple[httpx.Headers, dict[str, Any]]:
    messages: Any = [{"role": "user", "content": "Tell me a story"}]
    raw = gateway.client().chat.completions.with_raw_response.create(model=model, messages=messages, **options)
    return raw.headers, raw.parse().model_dump()


@pytest.mark.parametrize("model", ["gpt", "claude", "gemini"])
def test_in_headers_alone(quiet: Gateway, model: str) -> None:
    headers, answer = ask(quiet, model)
    assert not [name for name in FIELDS if name in answer]
    assert not [name for name in HEADERS if name not in headers]
    assert headers["x-gateway-model"] == model
    row = quiet.row(headers["x-gateway-request-id"])
    assert (row["status"], row["estimated"], row["native"]) == ("success", False, model == "gpt")
    assert row["input_tokens"] == answer["usage"]["prompt_tokens"]
    assert row["output_tokens"] == answer["usage"]["completion_tokens"]
    assert row["cost_usd"] > 0


@pytest.mark.parametrize("model", ["gpt", "claude"])
def test_a_client_may_ask_for_the_other_way(gateway: Gateway, quiet: Gateway, model: str) -> None:
    _, answer = ask(quiet, model, extra_headers={"x-gateway-metadata": "body"})
    assert answer["gateway_metadata"]["attempts"] == 1
    _, answer = ask(gateway, model, extra_headers={"x-gateway-metadata": "headers"})
    assert not [name for name in FIELDS if name in answer]


def test_a_provider_gets_no_word_of_it(gateway: Gateway, primary: Simulator) -> None:
    ask(gateway, "gpt", extra_headers={"x-gateway-metadata": "headers"})
    assert "x-gateway-metadata" not in primary.recent()[-1]["headers"]


def test_an_error_is_still_in_openais_shape(quiet: Gateway, primary: Simulator, second: Simulator) -> None:
    for simulator in (primary, second):
        simulator.faults({"status": 503})
    with pytest.raises(openai.InternalServerError) as caught:
        ask(quiet, "gpt")
    assert (caught.value.status_code, caught.value.code) == (502, "provider_error")


def test_a_compressed_answer_is_read_by_the_worker(quiet: Gateway, primary: Simulator) -> None:
    primary.faults({"gzip": True})
    headers, answer = ask(quiet, "gpt")
    assert answer["choices"][0]["message"]["content"]
    row = quiet.row(headers["x-gateway-request-id"])
    assert (row["status"], row["native"]) == ("success", False)
    assert row["output_tokens"] == answer["usage"]["completion_tokens"]


def test_failover_to_another_format_is_translated(quiet: Gateway, primary: Simulator) -> None:
    primary.faults({"format": "openai", "status": 500})
    headers, answer = ask(quiet, "gpt-ha")
    assert answer["choices"][0]["message"]["content"]
    assert (headers["x-gateway-model"], headers["x-gateway-attempts"]) == ("claude-b", "2")
    row = quiet.row(headers["x-gateway-request-id"])
    assert (row["status"], row["native"], row["attempts"]) == ("fallback", False, 2)


def test_an_answer_that_breaks_off_is_no_success(quiet: Gateway, primary: Simulator) -> None:
    primary.faults({"close_mid_stream": True})
    known = {row["request_id"] for row in quiet.rows(limit=100)}
    with pytest.raises((openai.APIConnectionError, openai.InternalServerError)):
        ask(quiet, "gpt")

    def new() -> list[str]:
        return [row["status"] for row in quiet.rows(limit=100) if row["request_id"] not in known]

    wait_until(lambda: bool(new()), 20, "the row")
    assert new() == ["failed"]
