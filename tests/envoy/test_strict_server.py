"""A server that speaks OpenAI's format, but refuses what it does not know, as Mistral's does: through a real Envoy."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import openai
import pytest

from tests.envoy.harness import Config, Gateway, ask
from tests.envoy.scripted import Call, Scripted, Step, event, stream, whole

KNOWN = {"model", "messages", "max_tokens", "temperature", "stream"}
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "strict"}


def strict(call: Call) -> Iterable[Step]:
    """422 for a member too many. Usage lies on a stream's last chunk, asked for or not."""
    unknown = [name for name in call.body if name not in KNOWN]
    if unknown:
        detail = [{"type": "extra_forbidden", "loc": ["body", name], "input": call.body[name]} for name in unknown]
        said = {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error", "code": None}
        return [whole(json.dumps(said).encode(), status=422)]
    roles = {message["role"] for message in call.body["messages"]}
    if not roles <= {"system", "user", "assistant", "tool"}:
        return [whole(b'{"object": "error", "message": "unknown variant"}', status=422)]
    if call.body["messages"][0]["content"] == "refuse":
        said = {"object": "error", "message": "Expected last role User.", "type": "invalid_request_error", "code": None}
        return [whole(json.dumps(said).encode(), status=400)]
    if not call.body.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
        return [whole(json.dumps(CHUNK | {"object": "chat.completion", "choices": [choice], "usage": USAGE}).encode())]
    first = {"index": 0, "delta": {"role": "assistant", "content": "Hi"}, "finish_reason": None}
    last = {"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}
    return stream(
        event(CHUNK | {"choices": [first]}), event(CHUNK | {"choices": [last], "usage": USAGE}), event("[DONE]")
    )


@pytest.fixture(scope="module", params=["native", "extproc"])
def config(new_config: Callable[[], Config], scripted: Scripted, request: pytest.FixtureRequest) -> Config:
    config = new_config() | {"streams": {"same_format": request.param}}
    unsupported = ["stream_options", "max_completion_tokens", "developer", "store", "seed"]
    config["providers"]["strict"] = {"format": "openai", "base_url": f"{scripted.url}/v1", "unsupported": unsupported}
    config["models"].append({"name": "strict", "provider": "strict", "price": {"input": 1.0, "output": 4.0}})
    config["teams"].append({"id": "bounded", "keys": ["sk-bounded"], "budget": {"daily_tokens": 500}})
    return config


@pytest.fixture(autouse=True)
def _strict(scripted: Scripted) -> None:
    scripted.does(strict)


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_stream_is_answered_and_its_usage_is_known(gateway: Gateway, scripted: Scripted, include_usage: bool) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if include_usage else {}
    create = gateway.client().chat.completions.with_raw_response.create
    raw = create(**ask("hi", "strict", stream=True, max_completion_tokens=9, store=False, **options))
    chunks: Any = list(raw.parse())
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hi"
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [7] or not include_usage
    (call,) = scripted.calls
    assert call.body == {**ask("hi", "strict"), "stream": True, "max_tokens": 9}
    row = gateway.row(raw.headers["x-gateway-request-id"])
    assert (row["status"], row["input_tokens"], row["output_tokens"], row["estimated"]) == ("success", 5, 2, False)


def test_a_limit_of_the_budget_has_a_name_that_it_takes(gateway: Gateway, scripted: Scripted) -> None:
    answer = gateway.client("sk-bounded").chat.completions.create(**ask("hi", "strict"))
    assert answer.choices[0].message.content == "Hi"
    assert 16 <= scripted.calls[-1].body["max_tokens"] <= 500


def test_developer_messages_are_sent_as_the_systems(gateway: Gateway, scripted: Scripted) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    gateway.client().chat.completions.create(model="strict", messages=messages)  # type: ignore[arg-type]
    assert [message["role"] for message in scripted.calls[-1].body["messages"]] == ["system", "user"]


def test_what_it_cannot_do_is_named_and_it_is_not_asked(gateway: Gateway, scripted: Scripted) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        gateway.client().chat.completions.create(**ask("hi", "strict", seed=1))
    assert (refused.value.param, scripted.calls) == ("seed", [])


def test_its_own_words_reach_the_client(gateway: Gateway) -> None:
    with pytest.raises(openai.BadRequestError, match=r"Expected last role User\."):
        gateway.client().chat.completions.create(**ask("refuse", "strict"))
