"""Five thousand mixed requests: audit rows, metrics, ledger, providers and traces tell the same story, to the token.

REQUESTS sets how many there are (`make reconcile`).
"""

import asyncio
import os
from collections import Counter

import msgspec
import pytest

from tests.envoy.harness import Config, Gateway, Simulator, wait_until
from tests.reconcile import sources
from tests.reconcile.sources import Metrics, Row, tokens
from tests.reconcile.traffic import KINDS, Seen, plan, send
from tests.telemetry.collector import Collector

REQUESTS = int(os.environ.get("REQUESTS", "5000"))
PATIENCE_S = 30 + REQUESTS / 100
TEAMS = ("alpha", "beta", "limited")
UNAUTHENTICATED = "gateway_unauthenticated_requests_total"
COUNTERS = ("requests", "prompt_tokens", "completion_tokens")
CUT = "cut-model"  # what providers know the model by whose streams are cut


class Books(msgspec.Struct):
    """Everything that was said, when all was over."""

    seen: list[Seen]
    rows: list[Row]
    metrics: Metrics
    ledger: dict[str, tuple[int, int, int]]
    provided: dict[str, Counter[str]]  # the providers' counters, each by the model they were asked for
    unauthenticated_before: int  # `gateway up` asks without a key, to see whether it is ready


@pytest.fixture(scope="module")
def config(config: Config, collector: Collector) -> Config:
    config["providers"]["limited"] = config["providers"]["openai"]
    price = {"input": 1, "output": 4}
    config["models"] += [
        {"name": "gpt-cut", "provider": "openai", "upstream_name": CUT, "price": price},
        {"name": "gpt-limited", "provider": "limited", "price": price},
    ]
    config["teams"] = [{"id": team, "keys": [f"sk-{team}"]} for team in TEAMS]
    config["teams"][2]["budget"] = {"daily_tokens": 1}
    return config | {"cache": {"exact": True, "coalesce_wait": "3s"}, "telemetry": {"otlp_endpoint": collector.url}}


@pytest.fixture(scope="module")
def books(gateway: Gateway, simulators: tuple[Simulator, Simulator], collector: Collector) -> Books:
    for simulator in simulators:
        simulator.reset()
    # How large answers are is learnt from whole ones, before any is cut.
    seen = asyncio.run(send(gateway.url, ["learnt"] * 20))
    settled(gateway, seen)
    before = Metrics(gateway).total(UNAUTHENTICATED)
    seen += asyncio.run(send(gateway.url, plan(REQUESTS - len(seen))))
    settled(gateway, seen)
    wait_until(lambda: not sources.still_open(simulators), 30, "the providers to be done")
    wait_until(
        lambda: not sum(held for _, _, held in sources.ledger(gateway, TEAMS).values()), 30, "no hold to be left"
    )
    rows = sources.rows(gateway)
    wait_until(lambda: collector.traces >= len(rows), PATIENCE_S, "the traces")
    provided = {name: sources.provider_totals(simulators, name) for name in COUNTERS}
    return Books(seen, rows, Metrics(gateway), sources.ledger(gateway, TEAMS), provided, before)


def settled(gateway: Gateway, seen: list[Seen]) -> None:
    """Wait until every request has its row, and every row was charged."""
    wanted = sum(bool(KINDS[each.kind].status) for each in seen)

    def done() -> bool:
        metrics = Metrics(gateway)
        return metrics.total("gateway_requests_total") >= wanted and not metrics.total("gateway_settlement_outbox")

    wait_until(done, PATIENCE_S, "all rows")


def test_clients_got_what_they_were_to_get(books: Books) -> None:
    assert len(books.seen) == REQUESTS
    assert not [each for each in books.seen if each.http not in KINDS[each.kind].http]


def test_every_request_has_one_row(books: Books) -> None:
    by_id = {row["request_id"]: row for row in books.rows}
    assert len(by_id) == len(books.rows) == sum(bool(KINDS[each.kind].status) for each in books.seen)
    told = [each for each in books.seen if each.request_id and KINDS[each.kind].status]
    assert len({each.request_id for each in told}) == len(told)
    for each in told:
        row, kind = by_id[each.request_id], KINDS[each.kind]
        assert (row["team_id"], row["http_status"]) == (kind.team, each.http)
        assert row["status"] in kind.status
    left = Counter(row["status"] for row in books.rows if row["http_status"] is None)
    assert left == {"cancelled": sum(each.http is None for each in books.seen)}


def test_metrics_count_each_row_once(books: Books) -> None:
    rows, metrics = books.rows, books.metrics
    assert metrics.sums(
        "gateway_requests_total", "team", "gen_ai_response_model", "gen_ai_provider_name", "status"
    ) == Counter(
        (row["team_id"], row["model_used"] or row["model_routed"], row["provider_used"] or "", row["status"])
        for row in rows
    )
    assert metrics.sums("gen_ai_server_request_duration_seconds_count", "team", "status") == Counter(
        (row["team_id"], row["status"]) for row in rows
    )
    assert metrics.sums("gateway_refused_requests_total", "reason") == Counter(
        row["error_code"] for row in rows if row["status"] == "refused"
    )
    nobody = sum(each.kind == "no such key" for each in books.seen)
    assert metrics.total(UNAUTHENTICATED) - books.unauthenticated_before == nobody


def test_metrics_and_ledger_have_the_tokens_and_the_money_of_the_rows(books: Books) -> None:
    used: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    for row in books.rows:
        used[row["team_id"]] += tokens(row)
        spent[row["team_id"]] += round((row["cost_usd"] or 0) * 1e9)
    assert {team: books.ledger[team] for team in TEAMS} == {team: (used[team], spent[team], 0) for team in TEAMS}
    assert books.metrics.sums("gen_ai_client_token_usage_sum", "team") == +used
    assert books.metrics.sums("gateway_cost_usd_total", "team") == +spent


def test_providers_counted_the_same(books: Books) -> None:
    attempts = sum(row["attempts"] for row in books.rows)
    assert sum(books.provided["requests"].values()) == attempts
    assert books.metrics.total("gateway_provider_attempts_total") == attempts
    produced = books.provided["prompt_tokens"] + books.provided["completion_tokens"]
    cut = produced.pop(CUT)
    exact = sum(tokens(row) for row in books.rows if row["model_used"] != "gpt-cut")
    assert sum(produced.values()) == exact
    assert not [row for row in books.rows if row["estimated"] and row["model_used"] != "gpt-cut"]
    # What was cut is estimated, within 15 %.
    rows = [row for row in books.rows if row["model_used"] == "gpt-cut"]
    estimated = sum(row["output_tokens"] for row in rows if row["estimated"])
    assert estimated > 0
    assert abs(sum(map(tokens, rows)) - cut) <= 0.15 * estimated


def test_every_row_is_one_trace(books: Books, collector: Collector) -> None:
    roots = sources.roots(collector)
    assert sorted(root["gateway.request_id"] for root in roots) == sorted(row["request_id"] for row in books.rows)
    assert Counter((root["gateway.team"], root["gateway.status"]) for root in roots) == Counter(
        (row["team_id"], row["status"]) for row in books.rows
    )
    assert len({span.span_id for span in collector.spans}) == len(collector.spans)
    assert sources.attempts_told(collector) == sum(row["attempts"] for row in books.rows)
    used = sum(root["gen_ai.usage.input_tokens"] + root["gen_ai.usage.output_tokens"] for root in roots)
    assert used == sum(map(tokens, books.rows))
