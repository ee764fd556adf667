"""What the cache keeps and what not, through a real Envoy: failures, single flight, deletion, processes that die."""

import asyncio
import concurrent.futures
import json
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from extproc.state.redis_py import connect
from tests.envoy.cached import WAIT_S, Asked, config, fresh, looked_up, metric, until_hit
from tests.envoy.harness import (
    ADMIN_KEY,
    Config,
    Gateway,
    Simulator,
    ask,
    at_once,
    bearer,
    free_port,
    raw_post,
    running,
    wait_until,
)
from tests.envoy.test_chat import TOOLS

__all__ = ["config"]

RECORDED = ["gpt", "claude"]  # by the settler, by the workers


def never_hit(gateway: Gateway, body: dict[str, Any], **options: Any) -> None:
    """Not now, and not when whatever was to be kept has been."""
    for _ in range(2):
        assert Asked(gateway, body, **options).cache in ("miss", "bypass")
        time.sleep(0.4)


class TestNotKept:
    @pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
    def test_the_first_answer_of_a_model_that_stood_in(self, gateway: Gateway, stream: bool) -> None:
        """What is hard is claude's, which has no `n`: it was passed over, and not even asked."""
        body = ask(fresh("Prove step by step that there are infinitely many primes congruent to 3 modulo 4."), "auto")
        body |= {"n": 2, "stream": stream}
        never_hit(gateway, body)
        row = gateway.row(Asked(gateway, body).id)
        assert (row["model_routed"], row["model_used"], row["attempts"]) == ("claude", "gpt", 1)
        assert (row["status"], row["routing_decision"]) == ("success", "fallback")

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


def test_the_wait_ends(config: Config, tmp_path: Path, primary: Simulator) -> None:
    own = config | {"listen": {"port": free_port()}, "data_dir": str(tmp_path / "data")}
    body = ask(fresh(), stream=True)
    with running(own | {"cache": config["cache"] | {"coalesce_wait": "1s"}}) as gateway:
        primary.faults({"first": 1, "chunks": 60, "chunk_interval_ms": 110})
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            slow = pool.submit(Asked, gateway, body)
            wait_until(lambda: primary.stats()["open"] == 1, 5, "the leader to be on its way")
            began = time.monotonic()
            assert Asked(gateway, body).cache == "miss", "not the leader's answer, which is still on its way"
            assert time.monotonic() - began > 0.5, "it waited"
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
                wait_until(lambda: primary.stats()["open"] == 1, 10, "the provider to be asked")
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
        other_state = gateway.config["state"] | {"url": f"unix://{gateway.data_dir}/valkey.sock"}
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

            def counted(at: Gateway) -> dict[str, int]:
                (stats,) = at.http.get("/v1/cache/stats", headers=bearer("sk-a")).json()["teams"]
                return {result: stats[result] for result in ("hits", "misses", "bypasses")}

            def rows() -> dict[str, int]:
                told = Counter(row["cache"] for at in (gateway, other) for row in at.rows(team_id="a"))
                return {"hits": told["hit"], "misses": told["miss"], "bypasses": told["bypass"]}

            # Of all that this file asked; what the processes add comes a little later.
            wait_until(lambda: counted(gateway) == counted(other) == rows(), 10, "both to have counted all requests")


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
        # A worker whose first look-up takes too long, as on a busy machine, leaves the store alone for a second.
        wait_until(lambda: at_once(lambda: looked_up(gateway)) == [True] * 10, 10, "both to ask the store")
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


def run(gateway: Gateway, *command: Any) -> None:
    async def send() -> None:
        client = connect(f"unix://{gateway.data_dir}/valkey.sock", timeout_s=5)
        await client.execute_command(*command)
        await client.aclose()

    asyncio.run(send())
