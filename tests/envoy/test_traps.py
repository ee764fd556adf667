"""What other gateways got wrong in public, through a real Envoy: the parts that only bytes on a wire show.

The number in a name is that of the case; tests of the same cases without a wire are in tests/adapters.
"""

import json
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.envoy.harness import Gateway, Simulator, ask, bearer
from tests.envoy.scripted import Call, Scripted, event, stream, whole
from tests.envoy.traps import BOTH, SAID, config, cut, streamed

__all__ = ["config"]

CITY = {"city": {"type": "string"}}
COUNTED = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens", "cost_usd")


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize(("model", "body", "events"), BOTH.values(), ids=BOTH)
def test_traps_12_13_a_stream_costs_what_the_same_answer_costs_whole(
    gateway: Gateway, scripted: Scripted, model: str, body: bytes, events: bytes, include_usage: bool
) -> None:
    create = gateway.client().chat.completions.with_raw_response.create
    options: Any = {"stream_options": {"include_usage": True}} if include_usage else {}
    scripted.does(lambda call: stream(*cut(events, 7)) if streamed(call) else [whole(body)])
    answers = [create(**ask("hi", model)), create(**ask("hi", model), stream=True, **options)]
    said = list(answers[1].parse())  # type: ignore[call-overload]
    assert "".join(choice.delta.content or "" for chunk in said for choice in chunk.choices) == SAID
    rows = [gateway.row(answer.headers["x-gateway-request-id"]) for answer in answers]
    assert {name: rows[1][name] for name in COUNTED} == {name: rows[0][name] for name in COUNTED}
    assert (rows[0]["input_tokens"], rows[0]["cached_tokens"] in (0, 40), rows[1]["estimated"]) == (100, True, False)


TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": CITY}}}
    for name in ("get_weather", "get_time")
]


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
def test_trap_6_gemini_takes_its_calls_back_over_three_turns(
    gateway: Gateway, primary: Simulator, streams: bool
) -> None:
    """The simulator refuses, as Gemini 3 does, calls of the current turn that come back without their signatures."""
    messages: list[Any] = [{"role": "user", "content": "call get_weather and get_time"}]
    for _ in range(2):
        message = turn(gateway, messages, streams=streams)
        calls = message["tool_calls"]
        assert [call["function"]["name"] for call in calls] == ["get_weather", "get_time"]
        messages.append(message)
        messages += [{"role": "tool", "tool_call_id": call["id"], "content": "sunny"} for call in calls]
        said = turn(gateway, messages, streams=streams)
        assert "sunny" in said["content"]
        messages += [said, {"role": "user", "content": "call get_weather and get_time"}]
    assert primary.recent()[-1]["model"] == "gemini-3-flash"


def test_trap_6_without_its_signature_the_simulator_would_refuse(gateway: Gateway, primary: Simulator) -> None:
    messages: list[Any] = [{"role": "user", "content": "call get_weather and get_time"}]
    message = turn(gateway, messages, streams=False)
    for call in message["tool_calls"]:
        call["id"] = call["id"].replace("~sig~", "~sig~AAAA")
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "x"} for call in message["tool_calls"]]
    with pytest.raises(openai.BadRequestError):
        turn(gateway, [*messages, message, *results], streams=False)


def turn(gateway: Gateway, messages: list[Any], *, streams: bool) -> dict[str, Any]:
    """One turn of the official client's, and its message as the client's users send it back."""
    chat = gateway.client().chat.completions
    if not streams:
        answer = chat.create(model="gemini-3", messages=messages, tools=TOOLS)
        return answer.choices[0].message.model_dump(exclude_none=True)
    with chat.stream(model="gemini-3", messages=messages, tools=TOOLS) as events:
        return events.get_final_completion().choices[0].message.model_dump(exclude_none=True, exclude={"parsed"})


OVERLOADED: dict[str, list[bytes]] = {
    "openai": [event({"error": {"message": "Overloaded", "type": "server_error", "code": None}})],
    "anthropic": [
        event({"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}),
        event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "error"),
    ],
    "google": [event({"error": {"code": 503, "message": "Overloaded", "status": "UNAVAILABLE"}})],
}


@pytest.mark.parametrize("suffix", ["", "-ha"], ids=["alone", "with an equivalent"])
@pytest.mark.parametrize(("model", "events"), OVERLOADED.items(), ids=OVERLOADED)
def test_trap_20_an_error_before_the_first_word_of_a_stream(
    gateway: Gateway, scripted: Scripted, model: str, events: list[bytes], suffix: str
) -> None:
    """Its 200 is the client's already: nobody else is asked, whoever could be."""
    model += suffix
    scripted.says(*stream(*events))
    asked = ask("hi", model, stream=True)
    answer = gateway.http.post("/v1/chat/completions", json=asked, headers=bearer())
    said = [line for line in answer.text.splitlines() if line.startswith("data:")]
    assert len(said) == 1
    assert json.loads(said[0].removeprefix("data:"))["error"]["message"]
    row = gateway.row(answer.headers["x-gateway-request-id"])
    assert (row["status"], row["attempts"], len(scripted.calls)) == ("failed", 1, 1)
    with pytest.raises(openai.APIError):
        list(gateway.client().chat.completions.create(**ask("hi", model), stream=True))


def test_a_refusal_within_a_stream_is_the_same_for_the_client_and_in_its_row(
    gateway: Gateway, scripted: Scripted
) -> None:
    error = {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"}
    scripted.says(*stream(event({"type": "error", "error": error}, "error")))
    answer = gateway.http.post("/v1/chat/completions", json=ask("hi", "anthropic", stream=True), headers=bearer())
    (said,) = [line for line in answer.text.splitlines() if line.startswith("data:")]
    code = json.loads(said.removeprefix("data:"))["error"]["code"]
    assert gateway.row(answer.headers["x-gateway-request-id"])["error_code"] == code == "context_length_exceeded"


@pytest.mark.parametrize(("model", "events"), {model: events for model, _, events in BOTH.values()}.items())
def test_while_a_provider_thinks_the_client_has_its_headers_and_nothing_else(
    gateway: Gateway, scripted: Scripted, model: str, events: bytes
) -> None:
    head, *words = stream(events)
    seen = threading.Event()

    def script(_: Call) -> Iterator[bytes]:
        yield head
        assert seen.wait(20)
        yield from words

    scripted.does(script)
    asked = ask("hi", model, stream=True)
    with gateway.http.stream("POST", "/v1/chat/completions", json=asked, headers=bearer()) as answer:
        seen.set()
        body = b"".join(answer.iter_raw())
    assert answer.status_code == 200
    assert body.startswith(b"data:"), "no comment to keep anything alive"


@pytest.mark.parametrize("model", ["openai", "anthropic"])
def test_trap_19_done_is_said_although_the_provider_does_not_hang_up(
    gateway: Gateway, scripted: Scripted, model: str
) -> None:
    _, _, events = next(both for both in BOTH.values() if both[0] == model)
    *pieces, _ = stream(events, b": still here\n\n")
    scripted.says(*pieces, 20.0)
    asked = ask("hi", model, stream=True)
    received = b""
    with gateway.http.stream("POST", "/v1/chat/completions", json=asked, headers=bearer()) as answer:
        for piece in answer.iter_raw():
            received += piece
            if b"[DONE]" in received:
                break
    assert received.count(b"[DONE]") == 1
    row = gateway.row(answer.headers["x-gateway-request-id"])
    assert (row["status"], row["input_tokens"], row["estimated"]) == ("success", 100, False)
