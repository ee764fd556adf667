"""Providers' health through a real Envoy, two replicas of the gateway on one state: what clients see of a provider that
fails, when it is passed over, and how it comes back."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from tests.envoy.harness import (
    Config,
    Gateway,
    Simulator,
    ask,
    at_once,
    bearer,
    free_port,
    marker,
    running,
    running_pair,
    wait_until,
)
from tests.envoy.test_budgets import Hook
from tests.envoy.traffic import RPS, Answer, Traffic, by_hand, circuits, health, in_use, knows_p99, one, routed_around

FAILURES: dict[str, list[dict[str, Any]]] = {
    "hanging": [{"format": "openai", "hang": "before_headers"}],
    "500s": [{"format": "openai", "status": 500}],
    "429s": [{"format": "openai", "status": 429, "retry_after": "1"}],
    "half of them": [{"format": "openai", "status": 500, "probability": 0.5}],
    "slow": [{"format": "openai", "first_byte_ms": 1500}],
    "resets": [{"format": "openai", "reset": "before_headers"}],
    "401s": [{"format": "openai", "status": 401}],
}
# From the first failure on, requests that needed a second attempt: two seconds' worth at most. Probes are few.
MOST_FAILED_OVER = 2 * RPS


@pytest.fixture(scope="module")
def hook() -> Hook:
    return Hook()


@pytest.fixture(scope="module")
def pair(new_config: Callable[[], Config], hook: Hook) -> Iterator[tuple[Gateway, Gateway]]:
    configs = new_config(), new_config()
    for config in configs:
        config["breaker"] = {"open_for": "1s"}
        config["routing"] = {
            "attempts": 3,
            "hedge": True,
            "deadlines": {"min": "300ms", "cold": "3s", "cold_whole": "3s"},
        }
        config["alerts"] = {"webhook": hook.url, "secret": "operator"}
        windows = {"gpt-ha": 1_000, "claude-b": 8_000, "gemini-b": 100_000}
        config["models"] = [
            model | ({"context": windows[model["name"]]} if model["name"] in windows else {})
            for model in config["models"]
        ]
        config["teams"][0]["limits"] = {}
        config["providers"]["counted"] = config["providers"]["openai"]
        config["models"].append({"name": "counted", "provider": "counted"})
    with running_pair(*configs) as pair:
        yield pair


@pytest.fixture
def gateway(pair: tuple[Gateway, Gateway]) -> Gateway:
    return pair[0]


@pytest.fixture(autouse=True)
def _healthy(_reset: None, pair: tuple[Gateway, Gateway]) -> None:
    for name in ("openai", "anthropic-b", "google-b"):
        assert by_hand(pair[0], name, "enable") == 200
    alone = {"metadata": {"fallback": "false"}}
    for gateway in pair:
        for model in ("gpt-ha", "claude-b", "gemini-b"):
            wait_until(lambda at=gateway, model=model: one(at, model, **alone).status == 200, 10, model)  # type: ignore[misc]


@pytest.mark.parametrize("fault", FAILURES)
def test_a_provider_that_fails_is_passed_over_and_comes_back(gateway: Gateway, primary: Simulator, fault: str) -> None:
    with Traffic(gateway) as traffic:
        traffic.until(in_use, "the provider's own answers")
        wait_until(lambda: knows_p99(gateway), 10, "its p99 to be known")
        primary.faults(*FAILURES[fault])
        traffic.until(routed_around, "the provider to be passed over")
        failed_over = [answer for answer in traffic.answers if answer.attempts > 1]
        primary.faults()
        traffic.until(in_use, "the provider to be back")
    assert {answer.status for answer in traffic.answers} == {200}
    assert 1 <= len(failed_over) <= MOST_FAILED_OVER
    assert {answer.routing for answer in traffic.answers if answer.model != "gpt-ha"} == {"fallback"}


@pytest.mark.parametrize("model", ["gpt-ha", "claude-ha"])
def test_errors_inside_streams_are_failures(gateway: Gateway, primary: Simulator, model: str) -> None:
    """One is passed on by Envoy alone, one translated; Envoy sees 200 of both."""

    def asked() -> Answer:
        return one(gateway, model, stream=True)

    wait_until(lambda: asked().model == model, 10, "the provider to be asked")
    primary.faults({"error_in_stream": "true"})
    wait_until(lambda: asked().model != model, 20, "the provider to be passed over")

    def tried() -> list[tuple[str, str, int]]:
        """By the last request that failed."""
        failed = next(row for row in gateway.rows(limit=50) if row["status"] == "failed")
        return [(attempt["model"], attempt["verdict"], attempt["status"]) for attempt in failed["attempt_log"]]

    wait_until(lambda: tried() == [(model, "error", 200)], 10, "its attempt to be written")


def test_the_row_of_a_request_that_passed_a_provider_over_is_a_success(gateway: Gateway, primary: Simulator) -> None:
    primary.faults({"format": "openai", "status": 500})
    wait_until(lambda: one(gateway).attempts == 1, 10, "the provider to be passed over")
    wait_until(lambda: {"success", "fallback"} <= {row["status"] for row in gateway.rows(limit=20)}, 10, "rows")
    rows = [row for row in gateway.rows(limit=20) if row["model_used"] == "claude-b" != row["model_requested"]]
    told = {(row["status"], row["routing_decision"], row["attempts"]) for row in rows}
    assert told <= {("success", "fallback", 1), ("fallback", "fallback", 2)}


def test_the_other_replica_learns_of_it_without_trying(pair: tuple[Gateway, Gateway], primary: Simulator) -> None:
    primary.faults({"format": "openai", "status": 500})
    wait_until(lambda: one(pair[0]).attempts == 1, 10, "the circuit to open")
    wait_until(lambda: "open" in circuits(pair[1]).values(), 10, "the other replica to know, which was not asked")
    wait_until(lambda: one(pair[1]).attempts == 1, 10, "the other replica to pass it over")


def test_health_without_the_shared_state(pair: tuple[Gateway, Gateway], primary: Simulator) -> None:
    """The state hangs: a replica goes by what it sees."""
    (valkey,) = pair[0].processes("valkey-server")
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        primary.faults({"format": "openai", "status": 500})
        wait_until(lambda: one(pair[1]).attempts == 1, 20, "the provider to be passed over")
        assert one(pair[1]).status == 200
    finally:
        os.kill(valkey.pid, signal.SIGCONT)


def test_nobody_left(gateway: Gateway, primary: Simulator, second: Simulator) -> None:
    primary.faults({"status": 500})
    second.faults({"status": 500})

    def refused() -> bool:
        """Whether nobody was asked: when all circuits are open, until one of them is to be probed."""
        with pytest.raises(openai.InternalServerError) as caught:
            gateway.client().chat.completions.create(**ask("hi", "gpt-ha"))
        if caught.value.status_code != 503:
            return False
        assert caught.value.code == "no_provider_available"
        assert int(caught.value.response.headers["retry-after"]) >= 1
        row = gateway.row(caught.value.response.headers["x-gateway-request-id"])
        return (row["status"], row["error_code"], row["attempts"]) == ("refused", "no_provider_available", 0)

    wait_until(refused, 20, "all circuits to open")


def test_a_limited_provider_with_no_stand_in_is_a_429(gateway: Gateway, primary: Simulator) -> None:
    primary.faults({"format": "openai", "status": 429, "retry_after": "60"})

    def limited() -> bool:
        assert one(gateway, metadata={"fallback": "false"}).status == 429
        return health(gateway)["rate_limited_until"] is not None

    def left_alone() -> bool:
        asked = primary.total("requests")
        assert {answer.status for answer in at_once(lambda: one(gateway, metadata={"fallback": "false"}))} == {429}
        return primary.total("requests") == asked

    wait_until(limited, 10, "the wait to be known")
    wait_until(left_alone, 10, "the workers to know it, who look 20 times a second")
    assert left_alone()
    assert circuits(gateway)["openai"] == "closed", "a rate limit is no failure"


@pytest.mark.parametrize("said", ["header", "milliseconds", "body", "body of a stand-in"])
def test_a_provider_is_left_alone_for_as_long_as_it_asked(
    gateway: Gateway, primary: Simulator, second: Simulator, said: str
) -> None:
    """Google says so in the body alone, which nobody reads of an attempt that another one follows."""
    if said == "body of a stand-in":
        primary.faults({"format": "openai", "status": 500})
        second.faults({"format": "anthropic", "status": 500}, {"format": "google", "status": 429, "retry_after": "8"})
        provider, model, seen = "google-b", "gpt-ha", 429
    else:
        asks = {"retry_after_ms": 8000} if said == "milliseconds" else {"retry_after": "8"}
        provider, model, seen = ("google", "gemini-ha", 200) if said == "body" else ("openai", "gpt-ha", 200)
        primary.faults({"format": provider, "status": 429, **asks})
    began = time.time()
    assert one(gateway, model).status == seen
    wait_until(lambda: health(gateway, provider)["rate_limited_until"] is not None, 10, "the wait to be known")
    until = datetime.fromisoformat(health(gateway, provider)["rate_limited_until"]).timestamp()
    assert began + 7 < until
    assert by_hand(gateway, provider, "enable") == 200


def test_a_refused_credential_is_the_operators_business(gateway: Gateway, primary: Simulator, hook: Hook) -> None:
    primary.faults({"format": "openai", "status": 401})

    def refused() -> bool:  # asked anew: what opens while its closing by hand is still being told of does not stay open
        assert one(gateway).status == 200
        return bool(health(gateway)["circuit_reason"] == "credential")

    wait_until(refused, 10, "the circuit")
    wait_until(lambda: any(b"provider.credential_refused" in body for _, body in hook.calls), 15, "the alert")
    assert "provider refuses our credential" in gateway.log()


def test_a_model_that_was_not_granted_leaves_its_provider_in_use(gateway: Gateway, hook: Hook) -> None:
    forbidden = [{"role": "user", "content": marker(fail_provider="openai", status=403)}]

    def refused() -> bool:
        assert one(gateway, messages=forbidden).routing == "fallback"
        return circuits(gateway)["gpt-ha"] != "closed"

    wait_until(refused, 10, "the circuit")
    wait_until(lambda: any(b'"gpt-ha"' in body for _, body in hook.calls), 15, "the alert")
    assert circuits(gateway)["openai"] == "closed"
    assert one(gateway, "gpt", metadata={"fallback": "false"}).status == 200


def test_drain_and_enable(pair: tuple[Gateway, Gateway], primary: Simulator) -> None:
    assert by_hand(pair[0], "openai", "drain") == 200
    for gateway in pair:
        wait_until(lambda at=gateway: health(at)["status"] == "drained", 10, "it to be drained")  # type: ignore[misc]
        wait_until(lambda at=gateway: one(at).routing == "fallback", 10, "it to be passed over")  # type: ignore[misc]
    assert by_hand(pair[1], "openai", "enable") == 200
    for gateway in pair:
        wait_until(lambda at=gateway: one(at).model == "gpt-ha", 10, "it to be enabled")  # type: ignore[misc]


@pytest.mark.parametrize("fault", [{}, {"early_answer": True}, {"early_answer": True, "early_close": True}], ids=str)
def test_too_long_a_prompt_goes_to_a_larger_window(
    gateway: Gateway, primary: Simulator, second: Simulator, fault: dict[str, Any]
) -> None:
    """As the provider says in a 400, which is tried again for no other reason."""
    refusal = {"status": 400, "message": "This model's maximum context length is 1000 tokens."}
    primary.faults({"format": "openai", **refusal, **fault})
    found = one(gateway)
    assert (found.status, found.model, found.attempts) == (200, "claude-b", 2)
    second.faults({"format": "anthropic", "status": 400, "message": "prompt is too long: 9000 tokens > 8000 maximum"})
    found = one(gateway)
    assert (found.status, found.model, found.attempts) == (200, "gemini-b", 3)
    second.faults({"status": 400, "message": "The input token count exceeds the maximum number of tokens allowed"})
    with pytest.raises(openai.BadRequestError) as caught:
        gateway.client().chat.completions.create(**ask("hi", "gpt-ha"))
    assert caught.value.code == "context_length_exceeded"
    primary.faults({"format": "openai", "status": 400, "message": "something else", **fault})
    assert (one(gateway).status, one(gateway).attempts) == (400, 1)


def test_too_long_a_prompt_by_our_own_estimate(gateway: Gateway, primary: Simulator) -> None:
    asked = primary.total("requests")
    answer = gateway.client().chat.completions.create(**ask("word " * 3_000, "gpt-ha"))
    assert answer.model == "claude-b"
    assert answer.model_extra is not None
    assert answer.model_extra["gateway_metadata"]["routing_decision"] == "larger_context"
    assert primary.total("requests") == asked


def test_a_slow_answer_races_and_both_are_paid(gateway: Gateway, primary: Simulator, second: Simulator) -> None:
    """All are slow: nobody is cut off, and the first answer wins."""
    with Traffic(gateway) as traffic:
        traffic.until(in_use, "the provider's own answers")
        wait_until(lambda: knows_p99(gateway), 10, "its p99 to be known")
    primary.faults({"format": "openai", "first_byte_ms": 900})
    second.faults({"first_byte_ms": 5000})
    raw = gateway.client().chat.completions.with_raw_response.create(**ask("hi", "gpt-ha"))
    assert raw.headers["x-gateway-model"] == "gpt-ha"
    assert int(raw.headers["x-gateway-attempts"]) > 1
    row = gateway.row(raw.headers["x-gateway-request-id"])
    assert row["outrun_tokens"] == row["estimated_input_tokens"] * (row["attempts"] - 1)
    assert row["cost_usd"] > (row["input_tokens"] * 1.0 + row["output_tokens"] * 4.0) / 1e6


def test_a_thousand_requests_while_the_provider_dies(pair: tuple[Gateway, Gateway], tmp_path: Path) -> None:
    """Every one is answered by the stand-in."""
    gateway = pair[0]
    dying = Simulator()
    config = gateway.config | {"listen": {"port": free_port()}, "data_dir": str(tmp_path / "data")}
    providers = config["providers"] | {"openai": config["providers"]["openai"] | {"base_url": dying.base_url("openai")}}
    with running(config | {"providers": providers}) as own:
        dying.faults({"first_byte_ms": 60_000})
        statuses = asyncio.run(storm(own, 1_000, lambda: wait_and_kill(dying)))
    assert statuses == {(200, "claude-b"): 1_000}


def wait_and_kill(simulator: Simulator) -> None:
    """When many requests wait for an answer there, or did."""
    wait_until(lambda: simulator.stats()["open"] + simulator.total("requests") >= 200, 20, "requests to be there")
    simulator.process.kill()
    simulator.process.wait()


async def storm(gateway: Gateway, requests: int, meanwhile: Callable[[], None]) -> dict[tuple[int, str], int]:
    """Answers by status and model."""
    found: dict[tuple[int, str], int] = {}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=bearer(), connector=connector) as session:

        async def ask_once() -> None:
            body = ask("hi", "gpt-ha")
            async with session.post(f"{gateway.url}/v1/chat/completions", json=body) as answer:
                await answer.read()
                key = answer.status, answer.headers.get("x-gateway-model", "")
                found[key] = found.get(key, 0) + 1

        await asyncio.gather(asyncio.to_thread(meanwhile), *(ask_once() for _ in range(requests)))
    return found


def test_figures_are_the_providers_own_counters(gateway: Gateway, primary: Simulator) -> None:
    """Of a provider that nobody asked before."""

    def figures() -> tuple[int, float]:
        found = health(gateway, "counted")
        return found["attempts_5m"], found["attempts_5m"] * found["error_rate_5m"]

    primary.faults({"format": "openai", "status": 500, "probability": 0.1})
    with Traffic(gateway, "counted", rps=100) as traffic:
        wait_until(lambda: len(traffic.answers) >= 200, 20, "200 answers")
    statuses = primary.stats()["formats"]["openai"]["counted"]["statuses"]
    asked, failed = sum(statuses.values()), statuses.get("500", 0)
    wait_until(lambda: figures()[0] >= asked, 10, "all attempts to be counted")
    assert figures() == (asked, pytest.approx(failed, rel=0.01))


def test_metrics(gateway: Gateway) -> None:
    names = ("circuit", "error_ratio", "deadline_seconds", "rate_limited", "drained")

    def shown() -> bool:
        text = gateway.http.get("/metrics").text
        return all(f"gateway_provider_{name}{{" in text for name in names)

    wait_until(shown, 10, "the figures of what was asked")
