"""The cache through a real Envoy, with the official SDK as the judge of what is replayed."""

import asyncio
import concurrent.futures
import itertools
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState

from extproc.budget.redis import connect
from tests.envoy.harness import (
    ADMIN_KEY,
    FORMATS,
    MODEL_OF,
    Config,
    Gateway,
    Simulator,
    ask,
    bearer,
    free_port,
    raw_post,
    running,
    wait_until,
)
from tests.envoy.test_budgets import Books, served
from tests.envoy.test_chat import PIXEL, TOOLS

MODELS = [MODEL_OF[name] for name in FORMATS]
RECORDED = ["gpt", "claude"]  # by the settler, by the workers
WAIT_S = 3.0
TEAMS: dict[str, dict[str, Any]] = {
    "a": {},
    "b": {},
    "books": {},
    "shared-1": {"cache": {"shared": True}},
    "shared-2": {"cache": {"shared": True}},
    "shared-gpt": {"cache": {"shared": True}, "models": ["gpt"]},
    "rate": {"limits": {"requests_per_minute": 3}},
    "broke": {"budget": {"daily_tokens": 250}},
}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def config(config: Config) -> Config:
    """The shared gateway's configuration, with a cache and teams of its own."""
    config["cache"] = {"exact": True, "max_entry_bytes": 65536, "coalesce_wait": f"{WAIT_S}s"}
    config["teams"] = [{"id": name, "keys": [f"sk-{name}"]} | settings for name, settings in TEAMS.items()]
    config["routing"]["auto"] = {"simple": ["gpt"], "medium": ["claude"], "hard": ["claude"]}
    return config


def fresh(text: str = "Tell me a long story") -> str:
    """A question that was never asked before."""
    return f"{text} {os.getpid()}-{next(_numbers)}"


class Asked:
    """One answer, whole or streamed, as the SDK understood it."""

    def __init__(self, gateway: Gateway, body: dict[str, Any], team: str = "a", **headers: str) -> None:
        client = gateway.client(f"sk-{team}")
        raw = client.chat.completions.with_raw_response.create(**body, extra_headers=headers)
        self.headers: httpx.Headers = raw.headers
        self.cache = raw.headers["x-gateway-cache"]
        self.id = raw.headers["x-gateway-request-id"]
        self.completion: Any = raw.parse()
        if body.get("stream"):
            self.chunks: Any = list(self.completion)
            state: Any = ChatCompletionStreamState(input_tools=openai.NOT_GIVEN)
            for chunk in self.chunks:
                state.handle_chunk(chunk)
            self.completion = state.current_completion_snapshot
        self.text = self.completion.choices[0].message.content


def until_hit(gateway: Gateway, body: dict[str, Any], team: str = "a") -> Asked:
    """Ask until the cache answers: an entry is there within a second of its answer's end."""
    deadline = time.monotonic() + 1
    while (found := Asked(gateway, body, team)).cache != "hit":
        assert time.monotonic() < deadline
    return found


def never_hit(gateway: Gateway, body: dict[str, Any], **options: Any) -> None:
    """Not now, and not when whatever was to be kept has been."""
    for _ in range(2):
        assert Asked(gateway, body, **options).cache in ("miss", "bypass")
        time.sleep(0.4)


def metric(gateway: Gateway, name: str, **labels: str) -> float:
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = gateway.http.get("/metrics").text.splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith(f"{name}{{") and all(label in line for label in wanted)
    )


class TestReplay:
    @pytest.mark.parametrize("model", MODELS)
    @pytest.mark.parametrize("first", [False, True], ids=["whole-first", "stream-first"])
    def test_one_entry_serves_whole_and_streamed(
        self, gateway: Gateway, primary: Simulator, model: str, first: bool
    ) -> None:
        question = fresh()
        original = Asked(gateway, ask(question, model, stream=first))
        assert original.cache == "miss"
        until_hit(gateway, ask(question, model))
        whole = Asked(gateway, ask(question, model))
        usage = {"include_usage": True}
        streamed = Asked(gateway, ask(question, model, stream=True, stream_options=usage))
        plain = Asked(gateway, ask(question, model, stream=True))
        assert primary.total("requests") == 1
        for hit in (whole, streamed, plain):
            assert (hit.cache, hit.text) == ("hit", original.text)
            assert hit.completion.choices[0].finish_reason == "stop"
            assert (hit.completion.id, hit.completion.model) == (original.completion.id, model)
            assert hit.headers["x-gateway-cache-key"] == original.headers["x-gateway-cache-key"]
            assert 0 <= int(hit.headers["age"]) <= 5
            assert hit.id != original.id
        assert streamed.completion.usage.total_tokens == whole.completion.usage.total_tokens > 0
        assert [bool(chunk.choices) for chunk in streamed.chunks].count(False) == 1
        assert all(chunk.usage is None and chunk.choices for chunk in plain.chunks)
        assert len(plain.chunks) > 2
        assert plain.headers["content-type"].startswith("text/event-stream")

    def test_what_a_hit_tells(self, gateway: Gateway) -> None:
        question = fresh()
        original = Asked(gateway, ask(question))
        hit = until_hit(gateway, ask(question))
        raw, before = hit.completion.model_dump(), original.completion.model_dump()
        assert raw["gateway_metadata"]["cache_hit"] is True
        assert raw["gateway_metadata"]["request_id"] == hit.id
        assert (raw["gateway_metadata"]["attempts"], raw["usage"]["cost_usd"]) == (0, 0)
        assert raw["gateway_metadata"]["saved_tokens"] == original.completion.usage.total_tokens
        assert raw["gateway_metadata"]["saved_usd"] == pytest.approx(before["usage"]["cost_usd"])
        for name in ("gateway_metadata", "usage"):
            del raw[name], before[name]
        assert raw == before, "all else is the original answer"
        assert hit.completion.usage.total_tokens == original.completion.usage.total_tokens

    def test_unknown_fields_are_replayed(self, gateway: Gateway) -> None:
        question = fresh()
        fingerprint = Asked(gateway, ask(question)).completion.system_fingerprint
        assert until_hit(gateway, ask(question)).completion.system_fingerprint == fingerprint
        assert fingerprint


class TestBooks:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("model", ["gpt", "claude"])
    def test_a_hit_costs_nothing_and_has_its_row(
        self, gateway: Gateway, primary: Simulator, model: str, stream: bool
    ) -> None:
        books, rows = Books(gateway, "books"), len(gateway.rows(team_id="books"))
        body = ask(fresh(), model, stream=stream)
        asked = [Asked(gateway, body, "books")]
        deadline = time.monotonic() + 1
        while asked[-1].cache != "hit":
            assert time.monotonic() < deadline
            asked.append(Asked(gateway, body, "books"))
        asked += [Asked(gateway, body, "books") for _ in range(2)]
        books.close(len(asked), rows)
        assert books.used == served(primary), "the ledger is the rows' sum, and what the provider says it served"
        first, last = gateway.row(asked[0].id), gateway.row(asked[-1].id)
        assert (first["cache"], first["cache_hit"], first["saved_tokens"]) == ("miss", False, 0)
        assert (last["cache"], last["cache_hit"], last["status"]) == ("hit", True, "success")
        assert (last["input_tokens"], last["output_tokens"], last["cost_usd"], last["attempts"]) == (0, 0, 0, 0)
        assert (last["model_used"], last["provider_used"]) == (model, None)
        assert last["saved_tokens"] == first["input_tokens"] + first["output_tokens"] > 0
        assert last["saved_usd"] == pytest.approx(first["cost_usd"])

    def test_a_hit_counts_as_a_request_of_the_minute(self, gateway: Gateway) -> None:
        body = ask(fresh())
        Asked(gateway, body, "rate")
        time.sleep(0.5)
        hits = [Asked(gateway, body, "rate") for _ in range(2)]
        assert [(hit.cache, hit.headers["x-ratelimit-remaining-requests"]) for hit in hits] == [
            ("hit", "1"),
            ("hit", "0"),
        ]
        with pytest.raises(openai.RateLimitError) as caught:
            Asked(gateway, body, "rate")
        assert caught.value.code == "rate_limit_exceeded"
        assert caught.value.response.headers["x-ratelimit-limit-requests"] == "3"
        row = gateway.row(caught.value.response.headers["x-gateway-request-id"])
        assert (row["status"], row["cache_hit"]) == ("refused", False)

    def test_a_team_without_budget_has_its_hits(self, gateway: Gateway) -> None:
        body = ask(fresh(), max_tokens=200)
        Asked(gateway, body, "broke")
        until_hit(gateway, body, "broke")
        with pytest.raises(openai.RateLimitError):
            [Asked(gateway, ask(fresh(), max_tokens=200), "broke") for _ in range(9)]
        hit = Asked(gateway, body, "broke")
        assert hit.cache == "hit"
        assert hit.headers["x-ratelimit-limit-tokens"] == "250"
        assert int(hit.headers["x-ratelimit-remaining-tokens"]) < 250

    def test_statistics_and_metrics(self, gateway: Gateway) -> None:
        def stats() -> dict[str, Any]:
            answer = gateway.http.get("/v1/cache/stats", headers=bearer("sk-b"))
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()["teams"][0]
            return found

        before, body = stats(), ask(fresh())
        Asked(gateway, body, "b")
        hit = until_hit(gateway, body, "b")
        saved = gateway.row(hit.id)["saved_tokens"]
        wait_until(lambda: stats()["hits"] == before["hits"] + 1, 5, "the hit to be counted")
        wait_until(lambda: stats()["saved_tokens"] == before["saved_tokens"] + saved, 5, "what it saved")
        assert stats()["saved_usd"] > before["saved_usd"]
        assert stats()["entries"] == before["entries"] + 1
        assert stats()["bytes"] > before["bytes"]
        assert metric(gateway, "gateway_cache_requests_total", team="b", result="hit") == stats()["hits"]
        wait_until(
            lambda: metric(gateway, "gateway_cache_stores_total", team="b") >= 1, 5, "what was kept to be counted"
        )


class TestWhoseAndWhich:
    def test_never_another_team(self, gateway: Gateway) -> None:
        body = ask(fresh())
        Asked(gateway, body, "a")
        until_hit(gateway, body, "a")
        for team in ("b", "shared-1"):
            assert Asked(gateway, body, team).cache == "miss"

    def test_those_who_share(self, gateway: Gateway) -> None:
        body = ask(fresh())
        Asked(gateway, body, "shared-1")
        until_hit(gateway, body, "shared-2")
        assert Asked(gateway, body, "a").cache == "miss"

    def test_never_a_model_the_team_may_not_use(self, gateway: Gateway) -> None:
        # Hard to the classifier, so `auto` takes claude for it.
        question = f"Prove step by step that there are infinitely many primes congruent to 3 modulo 4. {fresh()}"
        first = Asked(gateway, ask(question, "auto"), "shared-1")
        assert first.headers["x-gateway-model"] == "claude"
        until_hit(gateway, ask(question, "auto"), "shared-2")
        other = Asked(gateway, ask(question, "auto"), "shared-gpt")
        assert (other.cache, other.headers["x-gateway-model"]) == ("miss", "gpt")
        with pytest.raises(openai.PermissionDeniedError):
            Asked(gateway, ask(question, "claude"), "shared-gpt")

    def test_another_request_is_another(self, gateway: Gateway) -> None:
        question = fresh()
        user = {"role": "user", "content": question}
        image = {"type": "image_url", "image_url": {"url": PIXEL}}
        bodies: list[dict[str, Any]] = [
            ask(question),
            ask(question, "claude"),
            ask(question, tools=TOOLS),
            ask(question, tools=TOOLS[:1]),
            ask(question, response_format={"type": "text"}),
            ask(question, temperature=0),
            ask(question, max_tokens=2000),
            {"model": "gpt", "messages": [{"role": "system", "content": "Be brief."}, user]},
            {"model": "gpt", "messages": [user, {"role": "assistant", "content": "Yes?"}, user]},
            {"model": "gpt", "messages": [{"role": "user", "content": [{"type": "text", "text": question}, image]}]},
        ]
        answers = [Asked(gateway, body) for body in bodies]
        assert [answer.cache for answer in answers] == ["miss"] * len(bodies)
        assert len({answer.headers["x-gateway-cache-key"] for answer in answers}) == len(bodies)
        for body, answer in zip(bodies, answers, strict=True):
            assert until_hit(gateway, body).text == answer.text

    def test_bypass(self, gateway: Gateway, primary: Simulator) -> None:
        body = ask(fresh())
        first = Asked(gateway, body | {"metadata": {"bypass_cache": "true"}})
        assert (first.cache, first.headers.get("x-gateway-cache-key")) == ("bypass", None)
        assert Asked(gateway, body, **{"cache-control": "no-store"}).cache == "bypass"
        assert Asked(gateway, body | {"temperature": 0.7}).cache == "bypass"
        time.sleep(0.4)
        assert Asked(gateway, body).cache == "miss", "nothing of it was kept"
        until_hit(gateway, body)
        assert Asked(gateway, body, **{"cache-control": "no-cache"}).cache == "bypass"
        assert Asked(gateway, body | {"metadata": {"bypass_cache": "true"}}).cache == "bypass"
        time.sleep(1.1)
        assert Asked(gateway, body, **{"cache-control": "max-age=1"}).cache == "hit"
        assert Asked(gateway, body, **{"cache-control": "max-age=0"}).cache == "bypass"

    def test_no_cache_refreshes(self, gateway: Gateway) -> None:
        body = ask(fresh())
        Asked(gateway, body)
        until_hit(gateway, body)
        time.sleep(2.1)
        assert int(Asked(gateway, body).headers["age"]) >= 2
        assert Asked(gateway, body, **{"cache-control": "no-cache"}).cache == "bypass"
        wait_until(lambda: int(Asked(gateway, body).headers["age"]) < 2, 1.5, "a younger entry")


class TestNotKept:
    @pytest.mark.parametrize("model", RECORDED)
    @pytest.mark.parametrize(
        "fault",
        [
            {"end_mid_stream": True},
            {"reset": "mid_stream"},
            {"malformed_sse": True},
            {"status": 503},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
    def test_an_answer_that_failed(
        self, gateway: Gateway, primary: Simulator, model: str, fault: dict[str, Any], stream: bool
    ) -> None:
        body = ask(fresh(), model, stream=stream)
        primary.faults({"first": 1, **fault})
        with pytest.raises((openai.APIError, httpx.HTTPError, json.JSONDecodeError)):
            Asked(gateway, body)
        assert Asked(gateway, body).cache == "miss", "and nobody waits for it either"

    @pytest.mark.parametrize("model", RECORDED)
    def test_one_with_an_error_inside(self, gateway: Gateway, primary: Simulator, model: str) -> None:
        body = ask(fresh(), model, stream=True)
        primary.faults({"first": 1, "error_in_stream": "true"})
        with pytest.raises(openai.APIError):
            Asked(gateway, body)
        assert Asked(gateway, body).cache == "miss"

    @pytest.mark.parametrize("model", RECORDED)
    def test_a_client_that_left(self, gateway: Gateway, primary: Simulator, model: str) -> None:
        body = ask(fresh(), model, stream=True)
        primary.faults({"first": 1, "chunks": 40, "chunk_interval_ms": 30})
        with raw_post(gateway, body, "sk-a") as connection:
            received = b""
            while received.count(b"data:") < 8:
                received += connection.recv(65536)
            connection.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: primary.total("aborted_by_client") == 1, 5, "the request to be cancelled")
        began = time.monotonic()
        assert Asked(gateway, body).cache == "miss"
        assert time.monotonic() - began < WAIT_S, "its flight ended with it"

    @pytest.mark.parametrize("model", RECORDED)
    @pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
    def test_a_truncated_one(self, gateway: Gateway, model: str, stream: bool) -> None:
        never_hit(gateway, ask(fresh(), model, stream=stream, max_tokens=3))

    @pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
    def test_tool_calls_unless_configured(self, gateway: Gateway, stream: bool) -> None:
        before = metric(gateway, "gateway_cache_refused_total", reason="tool_calls")
        never_hit(gateway, ask(fresh("call get_weather"), tools=TOOLS, stream=stream))
        wait_until(
            lambda: metric(gateway, "gateway_cache_refused_total", reason="tool_calls") >= before + 2, 5, "the refusals"
        )

    @pytest.mark.parametrize("model", ["gpt", "claude"])
    @pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
    def test_one_that_is_too_large(self, gateway: Gateway, primary: Simulator, model: str, stream: bool) -> None:
        primary.faults({"huge": 70_000})
        never_hit(gateway, ask(fresh(), model, stream=stream))

    def test_one_of_a_model_that_stood_in(self, gateway: Gateway, primary: Simulator) -> None:
        body = ask(fresh(), "gpt-ha")
        primary.faults({"format": "openai", "first": 1, "status": 503})
        first = Asked(gateway, body)
        assert (first.cache, first.completion.model) == ("miss", "claude-b")
        assert Asked(gateway, body).completion.model == "gpt-ha"


class TestSingleFlight:
    @pytest.mark.parametrize("model", ["gpt", "claude"])
    @pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
    def test_the_same_at_once_goes_upstream_once(
        self, gateway: Gateway, primary: Simulator, model: str, stream: bool
    ) -> None:
        body = ask(fresh(), model, stream=stream)
        primary.faults({"first_byte_ms": 500})
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: Asked(gateway, body), range(12)))
        assert primary.total("requests") == 1
        assert sorted(answer.cache for answer in answers) == ["hit"] * 11 + ["miss"]
        assert len({answer.text for answer in answers}) == 1

    def test_a_leader_that_fails_is_followed_by_one(self, gateway: Gateway, primary: Simulator) -> None:
        body = ask(fresh())
        primary.faults({"first": 1, "status": 503, "first_byte_ms": 500}, {"first_byte_ms": 200})

        def one(_: int) -> str:
            try:
                return Asked(gateway, body).cache
            except openai.InternalServerError:
                return "failed"

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(one, range(8))) == ["failed"] + ["hit"] * 6 + ["miss"]
        assert primary.total("requests") == 2

    def test_the_wait_ends(self, gateway: Gateway, primary: Simulator) -> None:
        body = ask(fresh(), stream=True)
        primary.faults({"first": 1, "first_byte_ms": 1000, "chunks": 40, "chunk_interval_ms": 110})
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            slow = pool.submit(Asked, gateway, body)
            wait_until(lambda: primary.stats()["open"] == 1, 5, "the leader to be on its way")
            began = time.monotonic()
            other = Asked(gateway, body)
            assert other.cache == "miss"
            assert WAIT_S - 0.5 < time.monotonic() - began < WAIT_S + 3
            assert slow.result().text


class TestDelete:
    def test_is_in_force_at_once_for_every_worker(self, gateway: Gateway) -> None:
        bodies = [ask(fresh()) for _ in range(3)]
        keys = [Asked(gateway, body).headers["x-gateway-cache-key"] for body in bodies]
        for body in bodies:
            until_hit(gateway, body)
        assert self.delete(gateway, scope="key", cache_key=keys[0]) == 1
        assert Asked(gateway, bodies[0]).cache == "miss"
        assert Asked(gateway, bodies[1]).cache == "hit"
        assert self.delete(gateway, scope="team", team_id="a") >= 2
        assert [Asked(gateway, body).cache for body in bodies[1:]] == ["miss", "miss"]

    def test_what_is_on_its_way_is_not_kept(self, gateway: Gateway, primary: Simulator) -> None:
        for model in ("gpt", "claude"):
            body = ask(fresh(), model, stream=True)
            primary.faults({"first_byte_ms": 600})
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                running = pool.submit(Asked, gateway, body)
                time.sleep(0.3)
                self.delete(gateway, scope="all")
                assert running.result().cache == "miss"
            primary.faults()
            assert Asked(gateway, body).cache == "miss"

    @staticmethod
    def delete(gateway: Gateway, **body: Any) -> int:
        answer = gateway.http.request("DELETE", "/v1/cache", json=body, headers=bearer(ADMIN_KEY))
        assert answer.status_code == 200, answer.text
        deleted: int = answer.json()["entries_deleted"]
        return deleted


class TestTwoGateways:
    """Two on one state are one cache."""

    def test_what_one_kept_the_other_answers_until_it_is_deleted(
        self, gateway: Gateway, primary: Simulator, tmp_path: Path
    ) -> None:
        other_state = {"url": f"unix://{gateway.data_dir}/valkey.sock"}
        listen = {"port": free_port()}
        own = {"data_dir": str(tmp_path / "data"), "listen": listen, "state": other_state}
        with running(gateway.config | own) as other:
            for model in RECORDED:
                whole, streamed = ask(fresh(), model), ask(fresh(), model, stream=True)
                texts = [Asked(gateway, whole).text, Asked(other, streamed).text]
                primary.reset()
                assert [until_hit(other, whole).text, until_hit(gateway, streamed).text] == texts
                assert primary.total("requests") == 0
                key = until_hit(other, whole).headers["x-gateway-cache-key"]
                assert TestDelete.delete(gateway, scope="key", cache_key=key) == 1
                assert Asked(other, whole).cache == "miss", "at once: within a second is what was promised"
                until_hit(gateway, whole)
                assert TestDelete.delete(other, scope="all") >= 2
                assert [Asked(gateway, body).cache for body in (whole, streamed)] == ["miss", "miss"]
            stats = other.http.get("/v1/cache/stats", headers=bearer("sk-a")).json()["teams"][0]
            assert stats == gateway.http.get("/v1/cache/stats", headers=bearer("sk-a")).json()["teams"][0]


class TestKilled:
    def test_garbage_in_the_store_is_a_miss(self, gateway: Gateway) -> None:
        body = ask(fresh())
        digest = Asked(gateway, body).headers["x-gateway-cache-key"]
        until_hit(gateway, body)
        run(gateway, "SET", f"gw:cache:{{team:a}}:entry:{digest}", b"\x93garbage")
        assert Asked(gateway, body).cache == "miss"
        until_hit(gateway, body)

    def test_a_worker_in_the_middle_of_an_answer_leaves_nothing_half(
        self, gateway: Gateway, primary: Simulator
    ) -> None:
        body = ask(fresh(), "claude", stream=True)  # translated: the workers record it
        primary.faults({"first": 1, "chunks": 30, "chunk_interval_ms": 30})
        with raw_post(gateway, body, "sk-a") as connection:
            assert connection.recv(100)
            old = {process.pid for process in gateway.processes("gateway worker")}
            for process in gateway.processes("gateway worker"):
                process.kill()
        wait_until(lambda: len({p.pid for p in gateway.processes("gateway worker")} - old) == 2, 10, "new workers")
        wait_until(lambda: all(answers(gateway) for _ in range(6)), 10, "both to answer")
        again = Asked(gateway, body)
        assert again.cache == "miss"
        assert until_hit(gateway, body).text == again.text

    def test_valkey_killed_requests_go_on(self, gateway: Gateway) -> None:
        for process in gateway.processes("valkey-server"):
            process.kill()
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            assert Asked(gateway, ask(fresh())).text
        body = ask(fresh())
        wait_until(lambda: Asked(gateway, body).cache == "hit", 15, "the cache to be back")


def answers(gateway: Gateway) -> bool:
    try:
        return bool(Asked(gateway, ask(fresh())).text)
    except openai.APIError:
        return False


def run(gateway: Gateway, *command: Any) -> None:
    async def send() -> None:
        client = connect(f"unix://{gateway.data_dir}/valkey.sock", timeout_s=5)
        await client.execute_command(*command)
        await client.aclose()

    asyncio.run(send())
