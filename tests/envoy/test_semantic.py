"""The semantic cache through a real Envoy with the official SDK: what is given for what, and what goes upstream."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.envoy.harness import (
    ADMIN_KEY,
    OTHER_KEY,
    TEAM_KEY,
    Config,
    Gateway,
    Simulator,
    ask,
    running,
    wait_until,
)

Start = Callable[..., Gateway]
FORMS = (
    "{}",
    "Hi, {}",
    "Hello, {}",
    "{} please",
    "Hey, {}",
    "Please, {}",
    "Hello there, {}",
    "{} Thanks!",
    "Dear team, {}",
)


class Answer:
    """One answer, whole or streamed, as the SDK understood it."""

    def __init__(self, gateway: Gateway, body: dict[str, Any], key: str = TEAM_KEY) -> None:
        raw = gateway.client(key).chat.completions.with_raw_response.create(**body)
        self.headers, self.cache = raw.headers, raw.headers["x-gateway-cache"]
        self.id = raw.headers["x-gateway-request-id"]
        self.chunks: list[Any] = list(raw.parse()) if body.get("stream") else []
        if not self.chunks:
            raw.parse()


@pytest.fixture(scope="module")
def start(new_config: Callable[[], Config]) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def begin(**semantic: Any) -> Gateway:
            cache = {"exact": True, "coalesce_wait": "3s", "semantic": {"enabled": True, **semantic}}
            return stack.enter_context(running(new_config() | {"cache": cache}))

        yield begin


@pytest.fixture(scope="module")
def similar(start: Start) -> Gateway:
    return start(sample_share=0)


def put(gateway: Gateway, text: str, key: str = TEAM_KEY, **more: Any) -> Answer:
    return Answer(gateway, ask(text, "gpt", **{"temperature": 0, **more}), key)


def until_similar(gateway: Gateway, text: str, **more: Any) -> Answer:
    """Ask in ever new forms: each worker learns of an entry within a second, and a miss makes an entry of its form."""
    for form in FORMS:
        answer = put(gateway, form.format(text), **more)
        if answer.cache == "semantic-hit":
            return answer
        time.sleep(0.25)
    raise AssertionError(gateway.log()[-2000:])


def test_a_paraphrase_is_answered_without_the_provider(similar: Gateway, primary: Simulator) -> None:
    original = put(similar, "What is the capital of Portugal?")
    assert original.cache == "miss"
    hit = until_similar(similar, "What is the capital of Portugal?")
    asked = primary.total("requests")
    again = until_similar(similar, "What is Portugal's capital?", stream=True)
    assert {hit.cache, again.cache} == {"semantic-hit"}
    assert again.chunks[-1].choices[0].finish_reason == "stop"
    assert again.headers["x-gateway-cache-key"] != put(similar, "an unrelated thing").headers["x-gateway-cache-key"]
    assert primary.total("requests") == asked + 1  # that unrelated thing
    row = similar.row(again.id)
    assert (row["cache"], row["input_tokens"], row["output_tokens"]) == ("semantic-hit", 0, 0)
    assert row["saved_tokens"] > 0


@pytest.mark.parametrize(
    ("cached", "near_miss"),
    [
        ("How do I transfer $200 to my savings account?", "How do I transfer $2,000 to my savings account?"),
        ("How do I enable two-factor authentication?", "How do I disable two-factor authentication?"),
        ("Convert euros to dollars", "Convert dollars to euros"),
    ],
)
def test_a_near_miss_goes_upstream(similar: Gateway, primary: Simulator, cached: str, near_miss: str) -> None:
    put(similar, cached)
    until_similar(similar, cached)
    asked = primary.total("requests")
    assert put(similar, near_miss).cache == "miss"
    assert primary.total("requests") == asked + 1


def test_another_team_and_another_conversation_never_share(similar: Gateway) -> None:
    text = "How do plants make food?"
    put(similar, text)
    until_similar(similar, text)
    system = [{"role": "system", "content": "Answer in one word."}, {"role": "user", "content": f"Please, {text}"}]
    before = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}, *system[1:]]
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    assert put(similar, f"{text} Thanks!", OTHER_KEY).cache == "miss"
    strangers = [put(similar, "Hey there, " + text, messages=messages) for messages in (system, before)]
    strangers += [put(similar, "Hey there, " + text, tools=[tool]), put(similar, "Hey there, " + text, max_tokens=5)]
    assert [answer.cache for answer in strangers] == ["miss"] * 4


def test_a_temperature_that_is_not_zero_is_answered_exactly_or_not_at_all(similar: Gateway) -> None:
    text = "When did World War I begin?"
    put(similar, text)
    until_similar(similar, text)
    unset = Answer(similar, ask("Hey there, " + text, "gpt"))
    assert unset.cache == "miss"


def test_without_the_state_requests_go_on(similar: Gateway) -> None:
    gateway = similar
    text = "Why is the sky blue?"
    put(gateway, text)
    until_similar(gateway, text)
    gateway.processes("valkey-server")[0].suspend()
    try:
        assert put(gateway, "What makes the sky blue?").cache in ("miss", "bypass")
    finally:
        gateway.processes("valkey-server")[0].resume()
    # Each worker leaves the state alone for a second of its own.
    wait_until(lambda: all(put(gateway, text).cache == "hit" for _ in range(8)), 10.0, "the cache to come back")


def test_what_was_deleted_is_not_found(similar: Gateway) -> None:
    text = "Who painted the Mona Lisa?"
    put(similar, text)
    until_similar(similar, text)
    client = similar.client(ADMIN_KEY)
    client.delete("/cache", cast_to=object, body={"scope": "all"})
    assert put(similar, "Hey there, " + text).cache == "miss"


def test_sampled_hits_are_requests_of_their_own(start: Start, primary: Simulator) -> None:
    gateway = start(sample_share=1)
    text = "What does API stand for?"
    put(gateway, text)
    hit = until_similar(gateway, text)
    sample: list[dict[str, Any]] = []

    def written() -> bool:
        rows = [row for row in gateway.rows() if row["priority"] == "low"]
        sample[:] = [row for row in rows if row["status"] == "success"]
        return bool(sample)

    wait_until(written, 15.0, "the row of the sample")
    assert sample[0]["team_id"] == "team-a"
    assert sample[0]["cache"] == "bypass"
    assert sample[0]["output_tokens"] > 0
    assert sample[0]["request_id"] != hit.id

    def checked() -> bool:
        stats = gateway.client(ADMIN_KEY).get("/cache/stats", cast_to=object)
        team = next(team for team in stats["teams"] if team["team_id"] == "team-a")  # type: ignore[index]
        return team["estimated_wrong_hit_rate"] is not None

    wait_until(checked, 10.0, "the check to be counted")
