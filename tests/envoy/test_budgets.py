"""Budgets through a real Envoy: what was reserved is settled on every path, and the ledger is what was served."""

import concurrent.futures
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.envoy.books import LEASE_S, Books, create, quietly, served
from tests.envoy.harness import (
    MODEL_OF,
    Config,
    Gateway,
    Simulator,
    ask,
    bearer,
    marker,
    running,
    wait_until,
)

SECRET = "hook-secret"
TEAMS: dict[str, dict[str, Any]] = {
    "free": {},
    "strict": {"budget": {"daily_tokens": 3000, "strict": True}},
    "rate": {"limits": {"requests_per_minute": 3}},
    "alerted": {"budget": {"daily_tokens": 1250}, "auto_downgrade": True, "alert": {"threshold_pct": [50, 80]}},
    "usd": {"budget": {"daily_usd": 0.0005}},
    "shared": {"budget": {"daily_tokens": 6000, "strict": True}},
    "told": {
        "budget": {"daily_tokens": 10**6},
        "limits": {"requests_per_minute": 1000},
        "models": ["gpt", "claude", "gemini"],
    },
}


class Hook:
    """A webhook receiver that refuses the first call."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, str], bytes]] = []
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                hook.calls.append((dict(self.headers), body))
                self.send_response(500 if len(hook.calls) == 1 else 204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def with_teams(config: Config, hook: Hook) -> Config:
    config["teams"] = [{"id": name, "keys": [f"sk-{name}"]} | settings for name, settings in TEAMS.items()]
    config["teams"][3]["alert"] |= {"webhook": hook.url, "secret": SECRET}
    config["budgets"] = {"hold_lease": f"{LEASE_S}s"}
    config["routing"]["auto"] = {"simple": ["gpt-b"], "medium": ["gpt"], "hard": ["claude"]}
    return config


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    receiver = Hook()
    yield receiver
    receiver.server.shutdown()


@pytest.fixture(scope="module")
def config(config: Config, hook: Hook) -> Config:
    return with_teams(config, hook)


@pytest.mark.parametrize("model", ["gpt-ha", "claude-ha", "gemini-ha"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "fault",
    [{}, {"status": 500}, {"status": 400}, {"error_in_stream": "true"}, {"first_byte_ms": 100}],
    ids=str,
)
def test_every_path_is_settled_exactly(
    gateway: Gateway, primary: Simulator, second: Simulator, model: str, stream: bool, fault: dict[str, Any]
) -> None:
    books, rows = Books(gateway, "free"), len(gateway.rows(team_id="free"))
    provider = (
        model.removesuffix("-ha").replace("gpt", "openai").replace("claude", "anthropic").replace("gemini", "google")
    )
    text = f"A story {marker(fail_provider=provider, **fault)}" if fault else "A story"
    quietly(lambda: create(gateway, "free", text, model, stream=stream))
    books.close(1, rows)
    if "error_in_stream" not in fault:  # there the provider's own count ends before the answer does
        assert books.used == served(primary, second)


def test_a_strict_team_never_goes_over(gateway: Gateway, primary: Simulator) -> None:
    """Many at once, at a limit that holds a part of them."""
    rows = len(gateway.rows(team_id="strict"))
    books = Books(gateway, "strict")

    def one(number: int) -> tuple[str | None, int]:
        try:
            create(gateway, "strict", f"Story {number}", max_tokens=100)
        except openai.RateLimitError as error:
            return error.code, int(error.response.headers["retry-after"])
        return None, 0

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        results = list(pool.map(one, range(80)))
    books.close(80, rows)
    assert {code for code, _ in results} == {None, "budget_exceeded"}
    assert all(retry_after > 0 for code, retry_after in results if code)
    assert served(primary) == books.used <= 3000
    while one(0)[0] is None:  # with nothing held, all of the limit can be used
        wait_until(lambda: books.held == 0, LEASE_S + 10, "it to be settled")
    assert 3000 - 60 < books.used <= 3000


def test_strict_writes_the_ceiling_into_the_request(gateway: Gateway, primary: Simulator, tmp_path: Path) -> None:
    answer = create(gateway, "shared", "A story", extra_body={"metadata": {"priority": "normal"}})
    assert answer.usage.completion_tokens > 0
    assert primary.recent()[-1]["body_bytes"] > len(json.dumps(ask("A story")))


def test_requests_per_minute(gateway: Gateway) -> None:
    for left in (2, 1, 0):
        raw = gateway.client("sk-rate").chat.completions.with_raw_response.create(**ask("hi"))
        assert raw.headers["x-ratelimit-limit-requests"] == "3"
        assert raw.headers["x-ratelimit-remaining-requests"] == str(left)
    with pytest.raises(openai.RateLimitError) as caught:
        create(gateway, "rate", "hi")
    error = caught.value
    assert error.code == "rate_limit_exceeded"
    assert 1 <= int(error.response.headers["retry-after"]) <= 60
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"
    row = gateway.row(error.response.headers["x-gateway-request-id"])
    assert (row["status"], row["error_code"], row["output_tokens"]) == ("refused", "rate_limit_exceeded", 0)


def _chat(body: dict[str, Any] | bytes, **headers: str) -> tuple[str, str, dict[str, str], Any]:
    return "POST", "/v1/chat/completions", headers, json.dumps(body) if isinstance(body, dict) else body


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        *((200, _chat(ask("hi", model, stream=stream))) for model in MODEL_OF.values() for stream in (False, True)),
        *((seen, _chat(ask(marker(status=given), "claude"))) for given, seen in ((400, 400), (429, 429), (500, 502))),
        (400, _chat(b"no json")),
        (400, _chat(b"")),
        (400, _chat(ask("hi"), **{"content-encoding": "gzip"})),
        (403, _chat(ask("hi", metadata={"team_id": "free"}))),
        (403, _chat(ask("hi", "gpt-b"))),
        (404, _chat(ask("hi", "no-such-model"))),
        (405, ("DELETE", "/v1/chat/completions", {}, None)),
        (413, _chat(b"x" * (32 * 1024 * 1024 + 1))),
        (200, ("GET", "/v1/models", {}, None)),
        (404, ("GET", "/v1/models/no-such-model", {}, None)),
    ],
    ids=lambda value: str(value)[:60],
)
def test_every_answer_tells_the_limits(gateway: Gateway, status: int, request_: Any) -> None:
    """Refusals before anything is held, and answers that hold nothing, too."""
    method, path, headers, content = request_
    answer = gateway.http.request(method, path, content=content, headers=bearer("sk-told") | headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["x-gateway-request-id"]
    told = {name: value for name, value in answer.headers.items() if name.startswith("x-ratelimit-")}
    assert told.keys() == {
        f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")
    }
    assert (told["x-ratelimit-limit-tokens"], told["x-ratelimit-limit-requests"]) == ("1000000", "1000")
    assert 0 < int(told["x-ratelimit-remaining-tokens"]) <= 10**6


def test_usd(gateway: Gateway) -> None:
    def spend() -> None:
        for _ in range(30):
            create(gateway, "usd", "A story", max_tokens=50)

    with pytest.raises(openai.RateLimitError) as caught:
        spend()
    assert caught.value.code == "budget_exceeded"
    assert "USD" in caught.value.message


def test_alerts_once_each_then_downgrade(gateway: Gateway, hook: Hook) -> None:
    hard = "Prove that the algorithm is correct. " + "explain " * 496
    first = create(gateway, "alerted", hard, "auto", max_tokens=16)
    assert first.model == "claude"
    wait_until(lambda: len(hook.calls) >= 3, 15, "two alerts, the first one twice")
    time.sleep(1)
    bodies = [json.loads(body) for _, body in hook.calls]
    assert [body["threshold_pct"] for body in bodies].count(50) <= 2
    assert {body["threshold_pct"] for body in bodies} <= {50, 80}
    headers, body = hook.calls[-1]
    assert headers["x-gateway-signature"] == "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert headers["idempotency-key"]
    told = json.loads(body)
    assert (told["event"], told["team_id"], told["window"], told["unit"]) == (
        "budget.alert",
        "alerted",
        "daily",
        "tokens",
    )
    assert told["limit"] == 1250
    assert '"budget alert"' in gateway.log()


def test_auto_goes_one_tier_down_over_the_threshold(gateway: Gateway) -> None:
    while Books(gateway, "alerted").used_before < TEAMS["alerted"]["budget"]["daily_tokens"] / 2:
        create(gateway, "alerted", "explain " * 250, "claude", max_tokens=16)
    medium = "explain " * 60
    raw = gateway.client("sk-alerted").chat.completions.with_raw_response.create(**ask(medium, "auto"), max_tokens=16)
    assert raw.headers["x-gateway-routing"].partition(";")[0] == "downgraded"
    assert raw.headers["x-gateway-model"] == "gpt-b"
    pinned = create(gateway, "alerted", "hi", "claude", max_tokens=16)
    assert pinned.model == "claude", "a pinned model is never changed"


@pytest.mark.parametrize(
    "title", ["gateway worker 0", "gateway settler", "gateway control", "valkey-server", "_bin/envoy"]
)
def test_whatever_is_killed_nothing_is_lost(gateway: Gateway, primary: Simulator, title: str) -> None:
    """Requests run on while one process is killed: afterwards nothing is held and the ledger is the sum of the rows."""
    books, rows = Books(gateway, "free"), {row["request_id"] for row in gateway.rows(team_id="free")}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        running = [
            pool.submit(quietly, lambda: create(gateway, "free", f"Story {marker(first_byte_ms=150)}", stream=True))
            for _ in range(60)
        ]
        time.sleep(0.4)
        for process in gateway.processes(title):
            process.kill()
        for future in running:
            future.result()
    wait_until(lambda: gateway_answers(gateway), 60, "the gateway to be back")
    wait_until(lambda: books.held == 0, LEASE_S + 15, "no hold to be left")

    def unreconciled() -> bool:
        told = gateway.rows(team_id="free")
        return any(row["error_code"] == "unreconciled" for row in told if row["request_id"] not in rows)

    # A settler that was away for longer than a lease charges what was held, until it has read what it missed.
    wait_until(lambda: title == "_bin/envoy" or not unreconciled(), 10, "each row to be a request's own")
    wait_until(lambda: books.used == books.audited, 10, f"ledger {books.used} to be the rows' {books.audited}")
    new = [row for row in gateway.rows(team_id="free") if row["request_id"] not in rows]
    exact = title not in ("gateway worker 0", "_bin/envoy")
    if exact:  # no stream was cut, so nothing is an estimate and nothing may be missing
        assert len(new) >= 60
        wait_until(lambda: books.used == served(primary), 10, "the ledger to be what was served")


def gateway_answers(gateway: Gateway) -> bool:
    """Both ways through it: to a provider, and to the control API, which is slower to come back."""
    try:
        if gateway.http.get("/readyz").status_code != 200:
            return False
        create(gateway, "free", "hi")
        return gateway.http.get("/readyz").status_code == 200
    except (openai.APIError, httpx.HTTPError):
        return False


def test_two_gateways_on_one_state_share_one_budget(
    gateway: Gateway,
    new_config: Callable[[], Config],
    simulators: tuple[Simulator, Simulator],
    hook: Hook,
) -> None:
    config = with_teams(new_config(), hook)
    config["state"]["url"] = f"unix://{gateway.data_dir}/valkey.sock"
    books = Books(gateway, "shared")
    already = books.used_before
    with running(config) as second_gateway:

        def one(number: int) -> None:
            which = gateway if number % 2 else second_gateway
            quietly(lambda: create(which, "shared", f"Story {number}", max_tokens=100))

        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            list(pool.map(one, range(160)))
        wait_until(lambda: books.held == 0, LEASE_S + 10, "no hold to be left")
        # A request that took longer than its lease was charged as held; its own settlement puts that right.
        wait_until(lambda: served(simulators[0]) == books.used, 15, "the ledger to be what was served")
        assert already + books.used <= 6000
