"""Budgets through a real Envoy when it is tight: cut streams, texts that count high, many at once, no ledger."""

import concurrent.futures
import contextlib
import re
import socket
from typing import Any

import httpx
import openai
import pytest

from tests.envoy.books import LEASE_S, Books, create, quietly, served
from tests.envoy.harness import Config, Gateway, Simulator, ask, bearer, marker, raw_post, wait_until

TEAMS: dict[str, dict[str, Any]] = {
    "free": {},
    "fifty": {"limits": {"requests_per_minute": 50}},
    "ranked": {"budget": {"daily_tokens": 400, "burst_tokens": 200}},
    "pathological": {"budget": {"daily_tokens": 20_000, "strict": True}},
}


@pytest.fixture(scope="module")
def config(config: Config) -> Config:
    config["teams"] = [{"id": name, "keys": [f"sk-{name}"]} | settings for name, settings in TEAMS.items()]
    config["budgets"] = {"hold_lease": f"{LEASE_S}s"}
    return config


EVENTS = 60
CONTENT, CHARS_PER_TOKEN = re.compile(rb'"content":"([^"]*)"'), 4  # of the simulators
FAULTS = {
    "reset": {"reset": "mid_stream"},
    "close": {"close_mid_stream": "true"},
    "end": {"end_mid_stream": "true"},
    "error event": {"error_in_stream": "true"},
}


@pytest.fixture(scope="module", params=["gpt", "claude", "gemini"])
def learnt(gateway: Gateway, simulators: tuple[Simulator, Simulator], request: pytest.FixtureRequest) -> str:
    """A model of which some whole streams were seen: their bytes are what cut ones are estimated by."""
    model: str = request.param
    for simulator in simulators:
        simulator.reset()  # this comes before each test's own reset: another file's faults may still be set
    for number in range(6):
        text = long_story(20 + 12 * number)
        quietly(lambda text=text: create(gateway, "free", text, model, stream=True))
    return model


def long_story(events: int = EVENTS, **faults: Any) -> str:
    return f"A long story {marker(huge=66 * events, chunks=events, **faults)}"


@pytest.mark.parametrize("cut", ["first", "early", "late", *FAULTS])
def test_a_cut_stream_is_charged_what_was_produced(gateway: Gateway, primary: Simulator, learnt: str, cut: str) -> None:
    """By the client (before the first byte, early, late), by the provider, or by an error inside the stream.

    At least what the client got: on a machine that is busy enough a provider may have sent more before it tears it.
    """
    primary.reset()
    books, rows = Books(gateway, "free"), len(gateway.rows(team_id="free"))
    if cut in FAULTS:
        got = all_that_comes(gateway, ask(long_story(**FAULTS[cut], chunk_interval_ms=5), learnt, stream=True))
    else:
        wait_ms = {"first_byte_ms": 3000} if cut == "first" else {"chunk_interval_ms": 10}
        with raw_post(gateway, ask(long_story(**wait_ms), learnt, stream=True), "sk-free") as connection:
            got, wanted = b"", {"first": 0, "early": 8, "late": EVENTS - 12}[cut]
            wait_until(lambda: primary.stats()["recent"], 5, "the provider to be asked")
            while got.count(b"data:") < wanted:
                got += connection.recv(65536)
            connection.shutdown(socket.SHUT_RDWR)
    books.close(1, rows)
    wait_until(lambda: primary.recent()[-1]["outcome"] != "open", 5, "the provider to notice")
    row, produced = gateway.rows(team_id="free")[0], primary.recent()[-1]["completion_tokens"]
    assert row["status"] == ("failed" if cut in FAULTS else "cancelled")
    assert row["estimated"]
    if cut == "first":
        assert row["output_tokens"] == 0
    else:
        received = sum(map(len, CONTENT.findall(got))) / CHARS_PER_TOKEN
        assert 0 < 0.85 * received <= row["output_tokens"] <= 1.15 * produced
    assert row["input_tokens"] == row["estimated_input_tokens"]


def all_that_comes(gateway: Gateway, body: dict[str, Any]) -> bytes:
    got = b""
    with contextlib.suppress(httpx.RemoteProtocolError):
        url, headers = "/v1/chat/completions", bearer("sk-free")
        with gateway.http.stream("POST", url, json=body, headers=headers) as answer:
            for piece in answer.iter_raw():
                got += piece
    return got


# One token per byte is the most that a byte-level vocabulary makes of a text; NFKC makes 33 bytes of 3 (U+FDFA).
PATHOLOGICAL = ("\u0b95\u0bcd" * 100, "zq" * 150, " " * 300, "\U0001f9d1\u200d\U0001f692" * 40, "%$#\\" * 80)


@pytest.mark.parametrize("model", ["gpt", "claude", "gemini"])
def test_not_one_token_over_when_every_byte_is_a_token(gateway: Gateway, primary: Simulator, model: str) -> None:
    """A strict team, many at once, and a provider that counts a token for each byte of the prompt."""
    primary.faults({"input_bytes_per_token": 1})
    rows, books = len(gateway.rows(team_id="pathological")), Books(gateway, "pathological")

    def one(number: int) -> None:
        quietly(lambda: create(gateway, "pathological", PATHOLOGICAL[number % len(PATHOLOGICAL)], model, max_tokens=30))

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        list(pool.map(one, range(30)))
    books.close(30, rows)
    assert served(primary) == books.used
    assert books.used_before + books.used <= 20_000
    for row in gateway.rows(team_id="pathological")[:30]:
        assert row["input_tokens"] <= row["estimated_input_tokens"]


def test_200_at_once_at_a_limit_of_50_are_exactly_50(gateway: Gateway, primary: Simulator) -> None:
    def one(_: int) -> str | None:
        try:
            create(gateway, "fifty", "hi", max_tokens=16)
        except openai.RateLimitError as error:
            return error.code
        return None

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        results = list(pool.map(one, range(200)))
    assert results.count(None) == primary.total("requests") == 50
    assert results.count("rate_limit_exceeded") == 150


def test_low_is_refused_first_and_high_has_the_burst(gateway: Gateway) -> None:
    def spend(priority: str) -> openai.RateLimitError:
        """Until it is refused although nothing is held any more."""
        for _ in range(200):
            books = Books(gateway, "ranked")
            try:
                create(gateway, "ranked", "hi", max_tokens=400, extra_body={"metadata": {"priority": priority}})
            except openai.RateLimitError as error:
                limit = {"low": 360, "normal": 400, "high": 600}[priority]
                assert limit - 50 < books.used_before <= limit
                return error
        raise AssertionError("never refused")

    limits = []
    for priority in ("low", "normal", "high"):
        error = spend(priority)
        assert error.code == "budget_exceeded"
        limits.append(error.response.headers["x-ratelimit-limit-tokens"])
    assert limits == ["360", "400", "600"]


def test_a_state_that_hangs_admits_by_the_outage_policy_and_loses_nothing(gateway: Gateway, primary: Simulator) -> None:
    """fail_open: requests go on while Valkey answers nothing; afterwards all of them are charged.

    With the next one the last test here: for a second after it, workers still go by the policy.
    """
    rows, books = len(gateway.rows(team_id="free")), Books(gateway, "free")
    (valkey,) = gateway.processes("valkey-server")
    valkey.suspend()
    try:
        for number in range(6):
            create(gateway, "free", f"Story {number}", stream=bool(number % 2))
    finally:
        valkey.resume()
    books.close(6, rows)
    assert served(primary) == books.used


def test_what_was_admitted_without_the_state_is_charged_when_envoy_is_killed(
    gateway: Gateway, primary: Simulator
) -> None:
    """Envoy would have told of them, the state did not know of them: the worker does."""
    before, books = {row["request_id"] for row in gateway.rows(team_id="free")}, Books(gateway, "free")
    (valkey,), (envoy,) = gateway.processes("valkey-server"), gateway.processes("_bin/envoy")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        valkey.suspend()
        try:
            story = long_story(chunk_interval_ms=200)
            asked = [
                pool.submit(quietly, lambda: create(gateway, "free", story, max_tokens=4000, stream=True))
                for _ in range(8)
            ]
            wait_until(lambda: len(primary.recent()) == 8, 10, "all of them to be sent")
            envoy.kill()
            concurrent.futures.wait(asked)
        finally:
            valkey.resume()
    sent = {record["headers"]["x-request-id"] for record in primary.recent()}

    def found() -> dict[str, Any]:
        return {row["request_id"]: row for row in gateway.rows(team_id="free") if row["request_id"] not in before}

    wait_until(lambda: answers(gateway) and sent <= found().keys(), LEASE_S + 20, "a row of each")
    assert {found()[request_id]["error_code"] for request_id in sent} == {"unreconciled"}
    wait_until(lambda: books.held == 0, LEASE_S + 10, "no hold to be left")
    assert books.used == books.audited >= served(primary)


def answers(gateway: Gateway) -> bool:
    try:
        return gateway.http.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False
