"""Failover through the loopback: what goes wrong at the first provider, and who answers instead."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from extproc.chat import LARGE_BYTES
from tests.envoy.harness import (
    ADMIN_KEY,
    FORMATS,
    MODEL_OF,
    Config,
    Gateway,
    Simulator,
    ask,
    bearer,
    impatient,
    marker,
)

# For each model of the first provider, the fallback that stands first in its chain.
STAND_IN = {"gpt-ha": "claude-b", "claude-ha": "gpt-b", "gemini-ha": "gpt-b"}
FAILURES: list[dict[str, Any]] = [
    {"status": 401},
    {"status": 402},
    {"status": 404},
    {"status": 429, "retry_after": "30"},
    {"status": 500},
    {"status": 503},
    {"status": 529},
    {"reset": "before_headers"},
    {"hang": "before_headers"},
    {"early_answer": True, "status": 503},
]


# What gpt-b is told when it stands in for claude-ha or gemini-ha.
REWRITE = "You stand in for another model: " + "answer in the very form that was asked for. " * 5


@pytest.fixture(scope="module")
def walled() -> Iterator[int]:
    """A port where nothing answers, as behind a firewall: its backlog is full, so packets to it are dropped."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for client in waiting:
            client.close()


@pytest.fixture(scope="module")
def config(config: Config, walled: int) -> Config:
    for group in config["equivalents"][1:3]:
        group["rewrite"] = {"gpt-b": REWRITE}
    config["providers"]["walled"] = {"format": "openai", "base_url": f"http://127.0.0.1:{walled}/v1"}
    config["models"].append({"name": "walled-ha", "provider": "walled", "price": {"input": 1.0, "output": 4.0}})
    config["equivalents"].append({"models": ["walled-ha", "gpt-b"]})
    config["providers"]["dead-claude"] = config["providers"]["dead"] | {"format": "anthropic"}
    config["models"] += [{"name": name, "provider": name} for name in ("dead", "dead-claude")]
    return impatient(config)


def failing(wire_format: str, **faults: Any) -> str:
    """A marker that breaks only the provider of one format."""
    return marker(fail_provider=wire_format, **faults)


@pytest.mark.parametrize("wire_format", FORMATS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", FAILURES, ids=str)
def test_the_next_equivalent_answers(
    gateway: Gateway, primary: Simulator, second: Simulator, wire_format: str, fault: dict[str, Any], stream: bool
) -> None:
    model = f"{MODEL_OF[wire_format]}-ha"
    text = f"Tell me a story {failing(wire_format, **fault)}"
    raw = gateway.client().chat.completions.with_raw_response.create(**ask(text, model), stream=stream)
    answer: Any = raw.parse()
    if stream:
        chunks = list(answer)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]
    else:
        said = answer.choices[0].message.content
        assert answer.model == STAND_IN[model]
        assert answer.model_extra["gateway_metadata"]["attempts"] == 2
        assert answer.model_extra["gateway_metadata"]["routing_decision"] == "fallback"
    assert said
    assert raw.headers["x-gateway-model"] == STAND_IN[model]
    assert raw.headers["x-gateway-attempts"] == "2"
    row = gateway.row(raw.headers["x-gateway-request-id"])
    assert (row["status"], row["model_used"], row["attempts"]) == ("fallback", STAND_IN[model], 2)
    assert row["model_requested"] == model
    assert row["output_tokens"] > 0


@pytest.mark.parametrize("model", ["gpt-ha", "claude-ha"])
def test_a_large_request_fails_over_whole(gateway: Gateway, second: Simulator, model: str) -> None:
    """Of its body the worker keeps the text alone, and reads it again."""
    wire_format = "openai" if model == "gpt-ha" else "anthropic"
    text = f"{failing(wire_format, status=503)} " + "Once more. " * (LARGE_BYTES // 11 + 1)
    answer = gateway.client().chat.completions.create(**ask(text, model))
    assert answer.model == STAND_IN[model]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > LARGE_BYTES / 6, "all of it came"


def test_a_dead_port_fails_over(gateway: Gateway, second: Simulator) -> None:
    answer = gateway.client().chat.completions.create(**ask("hi", "dead-ha"))
    assert answer.model == "gpt-b"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", ["dead", "dead-claude"])
def test_a_provider_that_was_never_reached_is_not_said_to_have_answered(
    gateway: Gateway, model: str, stream: bool
) -> None:
    """Its second attempt goes through the loopback, whose 503 looks to the ingress like an answer."""
    with pytest.raises(openai.InternalServerError) as caught:
        gateway.client().chat.completions.create(**ask("hi", model), stream=stream)
    assert (caught.value.status_code, caught.value.code) == (502, "provider_error")
    assert f"{model} could not be reached" in caught.value.message
    assert gateway.row(caught.value.response.headers["x-gateway-request-id"])["attempts"] == 2


def test_a_port_where_nothing_answers_is_given_up_before_the_first_byte_deadline(gateway: Gateway) -> None:
    raw = gateway.client().chat.completions.with_raw_response.create(**ask("hi", "walled-ha"))
    row = gateway.row(raw.headers["x-gateway-request-id"])
    assert row["model_used"] == "gpt-b"
    first = row["attempt_log"][0]
    assert first["flags"] == ["upstream_connection_failure"], "by `timeouts.connect`, not the 2 s of this configuration"


def test_the_last_of_three_attempts(gateway: Gateway, primary: Simulator, second: Simulator) -> None:
    primary.faults({"status": 500})
    second.faults({"format": "anthropic", "status": 529})
    answer = gateway.client().chat.completions.create(**ask("hi", "gpt-ha"))
    assert answer.model == "gemini-b"
    assert answer.model_extra is not None
    assert answer.model_extra["gateway_metadata"]["attempts"] == 3


def test_nobody_left(gateway: Gateway, primary: Simulator, second: Simulator) -> None:
    primary.faults({"status": 500})
    second.faults({"status": 500})
    with pytest.raises(openai.InternalServerError) as caught:
        gateway.client().chat.completions.create(**ask("hi", "gpt-ha"))
    assert (caught.value.status_code, caught.value.code) == (502, "provider_error")
    row = gateway.row(caught.value.response.headers["x-gateway-request-id"])
    assert (row["status"], row["attempts"], row["error_code"]) == ("failed", 3, "provider_error")


def test_a_hang_costs_the_first_byte_deadline_and_no_more(gateway: Gateway, primary: Simulator) -> None:
    began = time.monotonic()
    text = failing("openai", hang="before_headers")
    raw = gateway.client().chat.completions.with_raw_response.create(**ask(text, "gpt-ha"))
    assert time.monotonic() - began > 1.9, "the deadline of this configuration is 2 s"
    row = gateway.row(raw.headers["x-gateway-request-id"])
    assert (row["attempts"], row["model_used"]) == (2, "claude-b")


@pytest.mark.parametrize("status", [400, 413, 422])
def test_the_clients_own_mistakes_are_not_retried(
    gateway: Gateway, primary: Simulator, second: Simulator, status: int
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        gateway.client().chat.completions.create(**ask(marker(status=status), "gpt-ha"))
    assert caught.value.status_code == status
    assert second.total("requests") == 0


def test_fallback_can_be_refused(gateway: Gateway, primary: Simulator, second: Simulator) -> None:
    with pytest.raises(openai.InternalServerError):
        gateway.client().chat.completions.create(**ask(marker(status=500), "gpt-ha"), metadata={"fallback": "false"})
    assert second.total("requests") == 0


def test_no_silent_retry_after_the_first_byte(gateway: Gateway, primary: Simulator, second: Simulator) -> None:
    stream = gateway.client().chat.completions.create(
        **ask(f"story {marker(reset='mid_stream', chunk_interval_ms=30)}", "gpt-ha"), stream=True
    )
    with pytest.raises(Exception):  # noqa: B017, PT011 - the SDK's transport decides which
        list(stream)
    assert second.total("requests") == 0


def test_the_original_request_is_translated_anew(gateway: Gateway, primary: Simulator, second: Simulator) -> None:
    """System prompts, tools and images arrive at the second provider as if it had been the first."""
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"call get_weather {failing('openai', status=503)}"},
    ]
    function = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    tools: Any = [{"type": "function", "function": function}]
    answer = gateway.client().chat.completions.create(model="gpt-ha", messages=messages, tools=tools)
    assert answer.model == "claude-b"
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.name == "get_weather"
    seen = second.recent()[-1]
    assert (seen["format"], seen["path"]) == ("anthropic", "/v1/messages")
    assert [name for name in seen["headers"] if name.startswith("x-gw-")] == []
    assert "content-length" in seen["headers"]


@pytest.mark.parametrize("model", ["claude-ha", "gemini-ha"])
def test_a_stand_in_is_told_what_its_group_says(
    gateway: Gateway, primary: Simulator, second: Simulator, model: str
) -> None:
    """gpt-b, for both: instructions before the request's own; the model that was asked for is not told."""
    provider = {"claude-ha": "anthropic", "gemini-ha": "google"}[model]
    primary.faults({"format": provider, "status": 500})
    text, client = "Tell me a story", gateway.client()
    plain = client.chat.completions.create(**ask(text, "gpt-b")).usage
    told = client.chat.completions.create(**ask(text, model))
    assert told.model == "gpt-b"
    assert told.usage.prompt_tokens > plain.prompt_tokens + 20
    assert REWRITE.encode() not in gateway.http.get("/v1/requests", headers=bearer(ADMIN_KEY)).content


def test_a_stand_in_that_cannot_express_the_request_is_skipped(
    gateway: Gateway, primary: Simulator, second: Simulator
) -> None:
    """Anthropic has no `n`; the third of the chain has."""
    answer = gateway.client().chat.completions.create(**ask(failing("openai", status=500), "gpt-ha"), n=2)
    assert answer.model == "gemini-b"
    assert len(answer.choices) == 2


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_model_that_was_asked_for_by_name_refuses_what_it_cannot_do(
    gateway: Gateway, primary: Simulator, second: Simulator, stream: bool
) -> None:
    """Though its stand-ins could: another model is for its failures, not for what it has no word for."""
    with pytest.raises(openai.BadRequestError) as refused:
        gateway.client().chat.completions.create(**ask("Hello", "claude-ha"), n=2, stream=stream)
    assert (refused.value.param, refused.value.code) == ("n", "invalid_request_error")
    assert primary.recent() == second.recent() == []
    row = gateway.row(refused.value.response.headers["x-gateway-request-id"])
    assert (row["status"], row["input_tokens"], row["attempts"]) == ("refused", 0, 0)
