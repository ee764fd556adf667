"""The cache through a real Envoy, with the official SDK as the judge of what is replayed."""

import time
from typing import Any

import openai
import pytest

from tests.envoy.cached import Asked, config, fresh, metric, until_hit
from tests.envoy.harness import (
    FORMATS,
    MODEL_OF,
    Gateway,
    Simulator,
    ask,
    bearer,
    wait_until,
)
from tests.envoy.test_budgets import Books, served
from tests.envoy.test_chat import PIXEL, TOOLS

__all__ = ["config"]

MODELS = [MODEL_OF[name] for name in FORMATS]


def stats(gateway: Gateway, team: str) -> dict[str, Any]:
    answer = gateway.http.get("/v1/cache/stats", headers=bearer(f"sk-{team}"))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["teams"][0]
    return found


def aged(gateway: Gateway, body: dict[str, Any], least_s: int) -> int:
    """Wait until the kept answer is that old; its age."""
    ages: list[int] = []

    def old_enough() -> bool:
        ages.append(int(until_hit(gateway, body).headers["age"]))
        return ages[-1] >= least_s

    wait_until(old_enough, 5, f"the answer to be {least_s} s old")
    return ages[-1]


class TestReplay:
    @pytest.mark.parametrize("model", MODELS)
    @pytest.mark.parametrize("first", [False, True], ids=["whole-first", "stream-first"])
    def test_one_entry_serves_whole_and_streamed(
        self, gateway: Gateway, primary: Simulator, model: str, first: bool
    ) -> None:
        question, began = fresh(), time.monotonic()
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
            assert 0 <= int(hit.headers["age"]) <= time.monotonic() - began + 1
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

        def hit() -> bool:
            asked.append(Asked(gateway, body, "books"))
            return asked[-1].cache == "hit"

        wait_until(hit, 10, "the cache to answer")
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
        wait_until(lambda: stats(gateway, "rate")["entries"] == 1, 10, "the answer to be kept")
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
        before, body = stats(gateway, "b"), ask(fresh())
        Asked(gateway, body, "b")
        hit = until_hit(gateway, body, "b")
        saved = gateway.row(hit.id)["saved_tokens"]
        wait_until(lambda: stats(gateway, "b")["hits"] == before["hits"] + 1, 5, "the hit to be counted")
        wait_until(lambda: stats(gateway, "b")["saved_tokens"] == before["saved_tokens"] + saved, 5, "what it saved")
        after = stats(gateway, "b")
        assert after["saved_usd"] > before["saved_usd"]
        assert after["entries"] == before["entries"] + 1
        assert after["bytes"] > before["bytes"]
        assert metric(gateway, "gateway_cache_requests_total", team="b", result="hit") == after["hits"]
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
        aged(gateway, body, 2)
        assert Asked(gateway, body, **{"cache-control": "max-age=600"}).cache == "hit"
        assert Asked(gateway, body, **{"cache-control": "max-age=1"}).cache == "miss"
        assert Asked(gateway, body, **{"cache-control": "max-age=0"}).cache == "bypass"

    def test_no_cache_refreshes(self, gateway: Gateway) -> None:
        body = ask(fresh())
        Asked(gateway, body)
        old_s, seen = aged(gateway, body, 2), time.monotonic()
        assert Asked(gateway, body, **{"cache-control": "no-cache"}).cache == "bypass"

        def younger() -> bool:
            """Than the old one by now."""
            least_s = old_s + int(time.monotonic() - seen)
            return int(until_hit(gateway, body).headers["age"]) < least_s

        wait_until(younger, 10, "a younger entry")
