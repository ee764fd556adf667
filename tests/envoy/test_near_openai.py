"""Streams in the client's own format, of providers that do not quite follow OpenAI; through workers too."""

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.envoy.harness import ADMIN_KEY, Config, Gateway, ask, bearer, wait_until
from tests.envoy.scripted import Scripted, event, stream, whole
from tests.envoy.traps import cut

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
    config["breaker"] = {"consecutive_failures": 1000, "min_requests": 10_000}  # the provider is asked all the same
    config["providers"]["scripted"] = {"format": "openai", "base_url": f"{scripted.url}/v1"}
    config["providers"]["down"] = {"format": "openai", "base_url": "http://127.0.0.1:9/v1"}
    config["models"] += [{"name": "odd", "provider": "scripted"}, {"name": "down", "provider": "down"}]
    config["equivalents"].append({"models": ["down", "odd"]})
    return config


def asked(gateway: Gateway, **more: Any) -> tuple[str, dict[str, Any]]:
    body = {**ask("hi", "odd"), "stream": True, **more}
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

    def verdicts() -> list[str]:
        told = gateway.http.get(f"/v1/requests/{row['request_id']}", headers=bearer(ADMIN_KEY)).json()
        return [attempt["verdict"] for attempt in told["attempt_log"]]

    wait_until(lambda: verdicts() == ["error"], 10, "its attempt to be written")
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


FUNCTION = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
TOOLS: Any = [{"type": "function", "function": FUNCTION}]


@pytest.mark.parametrize("model", ["odd", "down"], ids=["first", "stand-in"])
def test_trap_1_tool_calls_of_one_index_are_told_apart(gateway: Gateway, scripted: Scripted, model: str) -> None:
    """Ollama's (ollama#15457): OpenAI's own client joins them by the index."""
    calls = [
        {"index": 0, "id": f"call_{at}", "type": "function", "function": {"name": "add", "arguments": f'{{"a":{at}}}'}}
        for at in (1, 2)
    ]
    choices = [[{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}] for call in calls]
    chunks = [event({"id": "c", "model": "m", "created": 1, "choices": each}) for each in choices]
    scripted.says(*stream(*chunks, chunk("", "tool_calls", usage=USAGE), DONE))
    with gateway.client().chat.completions.stream(**ask("hi", model), tools=TOOLS) as said:
        found = said.get_final_completion().choices[0].message.tool_calls
    assert found is not None
    assert [json.loads(call.function.arguments) for call in found] == [{"a": 1}, {"a": 2}]
    _, row = asked(gateway, model=model, tools=TOOLS)
    assert (row["status"] in ("success", "fallback"), row["input_tokens"], row["estimated"]) == (True, 3, False)


AZURES = {"id": "", "object": "", "created": 0, "model": ""}
FILTERED = [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}]
OFFSETS = {"check_offset": 44, "start_offset": 44, "end_offset": 198}
ASYNC = event({"choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": OFFSETS}], **AZURES})


@pytest.mark.parametrize("pieces", [1, 7, 10_000], ids=["byte by byte", "7 bytes at once", "at once"])
def test_trap_7_azures_filter_surprises_nobody(gateway: Gateway, scripted: Scripted, pieces: int) -> None:
    """Its first event has no choice, those of its asynchronous filter no delta; what they say is there all the same."""
    first = event({"choices": [], **AZURES, "prompt_filter_results": FILTERED})
    usage = event({"id": "c", "choices": [], "usage": USAGE})
    data = b"".join([first, chunk("Hi"), ASYNC, chunk(".", "stop"), usage, DONE])
    scripted.says(*stream(*cut(data, pieces)))
    said: Any = list(gateway.client().chat.completions.create(**ask("hi", "odd"), stream=True))
    assert "".join(each.choices[0].delta.content or "" for each in said) == "Hi."
    assert said[0].prompt_filter_results == FILTERED
    assert said[1].choices[0].content_filter_offsets == OFFSETS
    _, row = asked(gateway)
    assert (row["status"], row["input_tokens"], row["estimated"]) == ("success", 3, False)


def test_trap_7_azures_filter_surprises_nobody_who_asks_for_usage(gateway: Gateway, scripted: Scripted) -> None:
    scripted.says(*stream(chunk("Hi"), ASYNC, chunk(".", "stop"), event({"choices": [], "usage": USAGE}), DONE))
    said: Any = list(gateway.client().chat.completions.create(**ask("hi", "odd"), stream=True, **ASKS))
    assert "".join(choice.delta.content or "" for each in said for choice in each.choices) == "Hi."
    assert said[1].choices[0].content_filter_offsets == OFFSETS
    assert said[-1].usage.total_tokens == 5


def test_white_space_that_keeps_a_connection_alive_is_no_part_of_an_answer(
    gateway: Gateway, scripted: Scripted
) -> None:
    """DeepSeek sends empty lines before a whole answer, comments within a stream."""
    message = {"role": "assistant", "content": "Hi."}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": USAGE}
    scripted.says(whole(b"\n" * 200 + json.dumps(body).encode()))
    answer = gateway.client().chat.completions.create(**ask("hi", "odd"))
    assert (answer.choices[0].message.content, answer.usage.total_tokens) == ("Hi.", 5)  # type: ignore[union-attr]
    scripted.says(*stream(b": keep-alive\n\n" * 9, chunk("Hi."), b": keep-alive\n\n", chunk("", "stop"), DONE))
    said, row = asked(gateway)
    assert "Hi." in said
    assert row["status"] == "success"
