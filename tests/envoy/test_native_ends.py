"""How streams in the client's own format end at providers that do not quite follow OpenAI; through workers too."""

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.envoy.harness import Config, Gateway, ask, bearer
from tests.envoy.scripted import Scripted, event, stream

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
ASKS = {"stream_options": {"include_usage": True}}


def chunk(text: str, finish: str | None = None, **more: Any) -> bytes:
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]
    known = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return event(known | {"choices": choices, **more})


DONE = event("[DONE]")
OPENROUTERS = chunk("", "error", provider="x", error={"code": "server_error", "message": "Provider disconnected"})


@pytest.fixture(scope="module", params=["native", "extproc"])
def config(new_config: Callable[[], Config], scripted: Scripted, request: pytest.FixtureRequest) -> Config:
    config = new_config() | {"streams": {"same_format": request.param}}
    config["providers"]["scripted"] = {"format": "openai", "base_url": f"{scripted.url}/v1"}
    config["models"].append({"name": "odd", "provider": "scripted"})
    return config


def asked(gateway: Gateway, **more: Any) -> tuple[str, dict[str, Any]]:
    body = ask("hi", "odd", stream=True, **more)
    raw = gateway.http.post("/v1/chat/completions", json=body, headers=bearer())
    return raw.text, gateway.row(raw.headers["x-gateway-request-id"])


@pytest.mark.parametrize("more", [{}, ASKS], ids=["plain", "asks for usage"])
@pytest.mark.parametrize("usage", [True, False], ids=["usage", "none"])
@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"], ids=["LF", "CRLF"])
def test_trap_19_a_finished_answer_without_done_is_whole(
    gateway: Gateway, scripted: Scripted, end: bytes, usage: bool, more: dict[str, Any]
) -> None:
    events = [chunk("Hi."), chunk("", "stop"), *([event({"choices": [], "usage": USAGE})] if usage else [])]
    scripted.says(*stream(*(each.replace(b"\n\n", end) for each in events)))
    said, row = asked(gateway, **more)
    assert "error" not in said
    assert said.endswith("data: [DONE]\n\n")
    assert ('"prompt_tokens"' in said) is (usage and bool(more))
    assert (row["status"], row["finish_reason"], row["estimated"]) == ("success", "stop", not usage)


def test_trap_19_of_two_choices_one_finished_is_not_the_end(gateway: Gateway, scripted: Scripted) -> None:
    scripted.says(*stream(chunk("Hi."), chunk("", "stop")))
    said, row = asked(gateway, n=2)
    assert json.loads(said.split("\n\n")[-2].removeprefix("data: "))["error"]["code"] == "provider_error"
    assert row["status"] == "failed"


@pytest.mark.parametrize(
    "events",
    [
        pytest.param((OPENROUTERS, DONE), id="OpenRouter's"),
        pytest.param((OPENROUTERS,), id="OpenRouter's, the last"),
        pytest.param(
            (chunk("", None, usage=USAGE), event({"error": {"message": "x", "code": 500}}), DONE), id="vLLM's"
        ),
        pytest.param((event({"object": "error", "error": {"message": "x"}}), DONE), id="not the first member"),
    ],
)
def test_trap_20_an_error_behind_content_is_a_failure(
    gateway: Gateway, scripted: Scripted, events: tuple[bytes, ...]
) -> None:
    """Though `[DONE]`, usage or a finish_reason came with it."""
    scripted.says(*stream(chunk("Hi."), *events))
    _, row = asked(gateway)
    assert (row["status"], row["error_code"]) == ("failed", "provider_error")
    with pytest.raises(openai.APIError):
        list(gateway.client().chat.completions.create(**ask("hi", "odd"), stream=True))


@pytest.mark.parametrize("tail", [{"id": "c", "usage": USAGE}, {"id": "c", "choices": None, "usage": USAGE}], ids=str)
def test_trap_7_usage_without_choices_is_hidden_as_well(
    gateway: Gateway, scripted: Scripted, tail: dict[str, Any]
) -> None:
    """SDKs that go over `choices` break on such an event (pydantic-ai#5170)."""
    scripted.says(*stream(chunk("Hi."), chunk("", "stop"), event(tail), DONE))
    said, row = asked(gateway)
    assert "prompt_tokens" not in said
    assert said.count("data:") == 3
    assert (row["status"], row["input_tokens"], row["estimated"]) == ("success", 3, False)


def test_trap_7_usage_on_the_last_chunk_stays_with_its_words(gateway: Gateway, scripted: Scripted) -> None:
    scripted.says(*stream(chunk("Hi.", "stop", usage=USAGE, x_groq={"usage": USAGE}), DONE))
    said, row = asked(gateway)
    assert "Hi." in said
    assert (row["status"], row["input_tokens"], row["estimated"]) == ("success", 3, False)
