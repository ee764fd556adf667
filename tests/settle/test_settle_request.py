"""Entry -> audit row: every way a request can end."""

import math
from typing import Any

import pytest

from extproc.budget.ledger import MAX_AMOUNT
from extproc.records import Price, Target, Usage
from extproc.settle.rows import AuditRow
from extproc.settle.settle import STATUS_RULES, Facts, settle_request, status_of
from extproc.wire import M_CUT
from tests.settle.builders import STARTED_S, TEAM, decision, entry, outcome, parsed, target

NATIVE_USAGE = {
    "prompt_tokens": 90.0,
    "completion_tokens": 40.0,
    "prompt_tokens_details.cached_tokens": 30.0,
    "completion_tokens_details.reasoning_tokens": 10.0,
}
CLIENT_GONE = ("downstream_connection_termination",)


def estimate(answered: Target, stream: bool, sent_bytes: int) -> tuple[int, int]:
    """A hundred bytes a token, three of them reasoning."""
    return sent_bytes // 100, 3


def settled(**given: Any) -> AuditRow:
    row = settle_request(parsed(entry(**({"decision": decision()} | given))), estimate)
    assert row is not None
    return row


def test_a_request_that_went_well_fills_every_column() -> None:
    row = settled(outcome=outcome(usage=Usage(100, 50, cached_tokens=40, cache_write_tokens=5, reasoning_tokens=20)))
    assert row == AuditRow(
        request_id="r1",
        team_id=TEAM,
        model_requested="auto",
        model_routed="gpt",
        model_used="gpt",
        provider_used="openai",
        status="success",
        error_code=None,
        http_status=200,
        routing_decision="simple_query",
        attempts=1,
        priority="high",
        stream=True,
        native=False,
        cache_hit=False,
        prompt_hash="ab" * 32,
        input_tokens=100,
        output_tokens=50,
        cached_tokens=40,
        cache_write_tokens=5,
        reasoning_tokens=20,
        estimated_input_tokens=120,
        estimated_output_tokens=300,
        estimated=False,
        outrun_tokens=0,
        cost_nano_usd=None,  # written to the provider's cache, whose price is not known
        finish_reason="stop",
        received_at=STARTED_S + 0.001,
        completed_at=STARTED_S + 0.9,
        latency_ms=900.0,
        first_byte_ms=212.0,
        gateway_latency_ms=1.5,
        response_bytes=5_000,
        details="via_upstream",
    )


# What Envoy and the worker say -> status, error code, (input, output) tokens, estimated?
WAYS: dict[str, tuple[dict[str, Any], tuple[str, str | None, tuple[int, int], bool]]] = {
    "whole answer": ({"outcome": outcome()}, ("success", None, (100, 50), False)),
    "whole answer, not streamed": (
        {"decision": decision(stream=False), "outcome": outcome()},
        ("success", None, (100, 50), False),
    ),
    "native stream": (
        {"outcome": outcome(native=True, usage=None, complete=False), "usage": NATIVE_USAGE},
        ("success", None, (90, 40), False),
    ),
    "native stream that ends without usage": (
        {"outcome": outcome(native=True, usage=None, complete=False)},
        ("failed", "provider_error", (120, 50), True),
    ),
    "native stream whose provider tells no usage": (
        {"outcome": outcome(native=True, usage=None, complete=False), "usage": {"finish_reason": "stop"}},
        ("success", None, (120, 50), True),
    ),
    "client leaves a native stream behind its finish_reason": (
        {
            "outcome": outcome(native=True, usage=None, complete=False),
            "usage": {"finish_reason": "stop"},
            "flags": CLIENT_GONE,
        },
        ("cancelled", None, (120, 50), True),
    ),
    "native stream cut behind its finish_reason": (
        {
            "outcome": outcome(native=True, usage=None, complete=False),
            "usage": {"finish_reason": "stop", M_CUT: True},
        },
        ("failed", "provider_error", (120, 50), True),
    ),
    "native stream with half of its usage": (
        {"outcome": outcome(native=True, usage=None, complete=False), "usage": {"prompt_tokens": 90.0}},
        ("failed", "provider_error", (120, 50), True),
    ),
    "native stream reset by the provider": (
        {"outcome": outcome(native=True, usage=None, complete=False), "flags": ("upstream_remote_reset",)},
        ("failed", "provider_error", (120, 50), True),
    ),
    "native stream reset behind its usage": (
        {
            "outcome": outcome(native=True, usage=None, complete=False),
            "usage": NATIVE_USAGE,
            "flags": ("upstream_connection_termination",),
        },
        ("failed", "provider_error", (90, 40), False),
    ),
    "native stream that falls silent": (
        {"outcome": outcome(native=True, usage=None, complete=False), "flags": ("stream_idle_timeout",)},
        ("failed", "provider_timeout", (120, 50), True),
    ),
    "usage read by Envoy although the worker read the stream": (
        {"outcome": outcome(usage=None), "usage": NATIVE_USAGE},
        ("success", None, (120, 50), True),
    ),
    "client leaves a native stream": (
        {"outcome": outcome(native=True, usage=None, complete=False), "flags": CLIENT_GONE},
        ("cancelled", None, (120, 50), True),
    ),
    "client leaves a native stream after its usage": (
        {"outcome": outcome(native=True, usage=None, complete=False), "usage": NATIVE_USAGE, "flags": CLIENT_GONE},
        ("success", None, (90, 40), False),
    ),
    "client leaves a translated stream": (
        {"flags": ("downstream_remote_reset",)},
        ("cancelled", None, (120, 50), True),
    ),
    "client leaves a translated stream behind its end": (
        {"outcome": outcome(), "flags": CLIENT_GONE},
        ("success", None, (100, 50), False),
    ),
    "client leaves before a whole answer has reached it": (
        {"decision": decision(stream=False), "outcome": outcome(), "flags": CLIENT_GONE},
        ("cancelled", None, (100, 50), False),
    ),
    "client leaves before the provider answered": (
        {"status": 0, "flags": CLIENT_GONE, "body_bytes": 0},
        ("cancelled", None, (120, 0), True),
    ),
    "client leaves before anything went to a provider": (
        {"status": 0, "flags": CLIENT_GONE, "body_bytes": 0, "attempts": 0},
        ("cancelled", None, (0, 0), False),
    ),
    "client leaves while it sends": (
        {"decision": None, "status": 0, "flags": CLIENT_GONE, "body_bytes": 0, "attempts": 0},
        ("cancelled", None, (0, 0), False),
    ),
    "answered by the second provider": (
        {"outcome": outcome(attempt=2, attempts=2), "attempts": 2},
        ("fallback", None, (100, 50), False),
    ),
    "first provider passed over, untried": (
        {"outcome": outcome(attempt=2, attempts=1)},
        ("success", None, (100, 50), False),
    ),
    "an earlier attempt's flag": (
        {"outcome": outcome(attempt=2, attempts=2), "attempts": 2, "flags": ("upstream_remote_reset",)},
        ("fallback", None, (100, 50), False),
    ),
    "second provider, and the client leaves": (
        {"attempts": 2, "flags": CLIENT_GONE},
        ("cancelled", None, (120, 50), True),
    ),
    "refused before any attempt": (
        {
            "status": 404,
            "decision": decision(targets=()),
            "outcome": outcome(usage=None, attempts=0, error_code="model_not_found"),
            "attempts": 0,
        },
        ("refused", "model_not_found", (0, 0), False),
    ),
    "refused, and the client does not wait for it": (
        {"status": 429, "outcome": outcome(usage=None, attempts=0, error_code="budget_exceeded"), "flags": CLIENT_GONE},
        ("refused", "budget_exceeded", (0, 0), False),
    ),
    "too large for Envoy": (
        {"decision": None, "status": 413, "attempts": 0, "details": "request_payload_too_large"},
        ("refused", "request_too_large", (0, 0), False),
    ),
    "refused by the provider": (
        {"status": 400, "outcome": outcome(usage=None, error_code="invalid_request_error")},
        ("failed", "invalid_request_error", (0, 0), False),
    ),
    "all providers down": (
        {
            "status": 502,
            "outcome": outcome(usage=None, attempt=3, attempts=3, error_code="provider_error"),
            "attempts": 3,
        },
        ("failed", "provider_error", (0, 0), False),
    ),
    "error inside the stream": (
        {"outcome": outcome(usage=None, complete=False, error_code="provider_error", finish_reason=None)},
        ("failed", "provider_error", (120, 50), True),
    ),
    "stream without its end": (
        {"outcome": outcome(usage=None, complete=False, finish_reason=None)},
        ("failed", "provider_error", (120, 50), True),
    ),
    "whole answer without usage": (
        {"outcome": outcome(usage=None)},
        ("success", None, (120, 50), True),
    ),
    "worker killed before it decided": (
        {"decision": None, "status": 503, "attempts": 0, "details": "ext_proc_error_grpc_error_14"},
        ("failed", "no_provider_available", (0, 0), False),
    ),
    "worker killed with the answer in hand": (
        {"status": 503, "received_bytes": 4_000, "details": "ext_proc_error_gRPC_error_13{upstream_reset}"},
        ("failed", "no_provider_available", (120, 40), True),
    ),
    "worker killed behind the loopback, with a stand-in's answer": (
        {
            "status": 502,
            "attempts": 2,
            "received_bytes": 300,
            "outcome": outcome(usage=None, attempt=2, attempts=2, error_code="answer_unread", unread_bytes=4_000),
        },
        ("failed", "answer_unread", (120, 40), True),
    ),
    "worker killed there before it had come": (
        {
            "status": 502,
            "attempts": 2,
            "received_bytes": 300,
            "outcome": outcome(usage=None, attempt=2, attempts=2, error_code="answer_unread", unread_bytes=0),
        },
        ("failed", "answer_unread", (120, 0), True),
    ),
    "a whole answer that broke off": (
        {
            "status": 502,
            "received_bytes": 4_000,
            "outcome": outcome(usage=None, error_code="provider_error"),
            "details": "upstream_reset_after_response_started{protocol_error}",
        },
        ("failed", "provider_error", (120, 40), True),
    ),
    "a whole answer that fell silent": (
        {"status": 504, "received_bytes": 4_000, "flags": ("stream_idle_timeout",), "details": "stream_idle_timeout"},
        ("failed", "provider_timeout", (120, 40), True),
    ),
    "an answer that never began": (
        {"status": 504, "flags": ("stream_idle_timeout",), "details": "stream_idle_timeout"},
        ("failed", "provider_timeout", (0, 0), False),
    ),
    "an answer that is none, and is billed": (
        {"status": 502, "outcome": outcome(usage=Usage(20, 4), error_code="no_usable_answer")},
        ("failed", "no_usable_answer", (20, 4), False),
    ),
    "worker killed before the answer": ({"status": 500}, ("failed", "internal_error", (0, 0), False)),
    "worker killed while it streamed": ({}, ("failed", "provider_error", (120, 50), True)),
    "no answer in time": (
        {"status": 504, "flags": ("upstream_request_timeout",)},
        ("failed", "provider_timeout", (0, 0), False),
    ),
    "nothing was ever sent": ({"status": 0, "body_bytes": 0}, ("failed", "provider_error", (0, 0), False)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_end_has_its_status_and_its_tokens(way: str) -> None:
    given, expected = WAYS[way]
    row = settled(**given)
    assert (row.status, row.error_code, (row.input_tokens, row.output_tokens), row.estimated) == expected


def test_each_status_is_reached() -> None:
    reached = {settled(**given).status for given, _ in WAYS.values()}
    assert reached == {status for status, _ in STATUS_RULES}


def test_the_last_rule_applies_to_everything() -> None:
    assert status_of(Facts(whole=True)) == "success"


def test_native_usage_brings_its_parts() -> None:
    row = settled(outcome=outcome(native=True, usage=None, complete=False), usage=NATIVE_USAGE)
    assert (row.cached_tokens, row.reasoning_tokens, row.native) == (30, 10, True)
    assert row.cost_nano_usd == 90 * 1_000 + 40 * 2_000


def test_traps_12_13_a_native_stream_is_read_as_the_worker_would() -> None:
    """The object as it was written says more than the counts that Envoy searches for in every event."""
    written = '{"prompt_tokens": 90, "completion_tokens": 40, "prompt_cache_hit_tokens": 30, "odd": {"a": "}"}}'
    usage = {"prompt_tokens": 90.0, "completion_tokens": 40.0, "usage": written}
    native = outcome(native=True, usage=None, complete=False)
    row = settled(outcome=native, usage=usage)
    assert (row.input_tokens, row.output_tokens, row.cached_tokens) == (90, 40, 30)
    assert settled(outcome=native, usage=usage | {"usage": "{"}).input_tokens == 90


def test_the_native_finish_reason_is_used_when_the_worker_saw_none() -> None:
    native = outcome(native=True, usage=None, finish_reason=None, complete=False)
    assert settled(outcome=native, usage=NATIVE_USAGE | {"finish_reason": "length"}).finish_reason == "length"


def test_estimated_reasoning_is_written_down() -> None:
    assert settled(flags=CLIENT_GONE).reasoning_tokens == 3


def test_the_target_that_answered_is_billed() -> None:
    cheap, dear = target(), target("claude", "anthropic", Price(input=3_000_000, output=15_000_000))
    row = settled(decision=decision(targets=(cheap, dear)), outcome=outcome(attempt=2, attempts=2), attempts=2)
    assert (row.model_used, row.provider_used, row.routing_decision) == ("claude", "anthropic", "fallback")
    assert row.cost_nano_usd == 100 * 3_000 + 50 * 15_000


def test_without_the_worker_the_number_of_attempts_tells_the_target() -> None:
    assert settled(attempts=2, flags=CLIENT_GONE).provider_used == "anthropic"
    assert settled(attempts=9, flags=CLIENT_GONE).provider_used == "google"


def test_an_unknown_price_is_no_cost_rather_than_none_at_all() -> None:
    row = settled(outcome=outcome(attempt=3, attempts=3), attempts=3)
    assert (row.model_used, row.cost_nano_usd) == ("gemini", None)
    assert settled(status=429, outcome=outcome(usage=None, attempts=0, error_code="x")).cost_nano_usd == 0


def test_nothing_was_used_where_nothing_was_tried() -> None:
    row = settled(status=429, outcome=outcome(usage=None, attempts=0, error_code="rate_limit_exceeded"))
    assert (row.model_used, row.provider_used, row.attempts) == (None, None, 0)


def test_times_are_absent_where_there_were_none() -> None:
    row = settled(status=0, flags=CLIENT_GONE, time_to_first_downstream_tx_byte=None, decision=decision(decided_us=0))
    assert (row.first_byte_ms, row.gateway_latency_ms, row.http_status) == (None, None, None)


def test_without_a_decision_the_arrival_is_envoys() -> None:
    row = settled(decision=None, status=503, attempts=0)
    assert (row.received_at, row.team_id, row.model_requested) == (STARTED_S, TEAM, "")


def test_a_decision_is_enough_to_know_the_team() -> None:
    assert settled(team=None, outcome=outcome()).team_id == TEAM


@pytest.mark.parametrize("given", [{"team": None}, {"request_id": ""}])
def test_nobody_knows_whose_it_is(given: dict[str, Any]) -> None:
    assert settle_request(parsed(entry(**given)), estimate) is None


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"request_id": 1}', "null", "\ud7ff"])
def test_metadata_that_cannot_be_read_still_makes_a_row(broken: str) -> None:
    row = settled(decision=broken, outcome=broken, status=500)
    assert (row.status, row.team_id) == ("failed", TEAM)


@pytest.mark.parametrize("number", [-5.0, 1e300, math.inf, math.nan])
def test_numbers_that_are_no_count_are_bounded(number: float) -> None:
    row = settled(
        outcome=outcome(native=True, usage=None, complete=False), usage=NATIVE_USAGE | {"completion_tokens": number}
    )
    assert 0 <= row.output_tokens <= 10**12


def test_the_workers_numbers_are_bounded_too() -> None:
    dear = decision(targets=(target(price=Price(input=10**12, output=10**12)),))
    row = settled(outcome=outcome(usage=Usage(input_tokens=-1, output_tokens=2**63 - 1)), decision=dear)
    assert (row.input_tokens, row.output_tokens) == (0, 10**12)
    assert row.cost_nano_usd == MAX_AMOUNT, "what the ledger would refuse would hold up all that comes after it"


def test_an_attempt_that_lost_a_race_is_paid_for_too() -> None:
    """Its provider had read the prompt when the other one answered."""
    raced = settled(outcome=outcome(attempt=1, attempts=2, outrun=(2,)), decision=decision(input_tokens=1_000))
    alone = settled(outcome=outcome(), decision=decision(input_tokens=1_000))
    assert (raced.outrun_tokens, alone.outrun_tokens) == (1_000, 0)
    assert raced.cost_nano_usd is not None
    assert alone.cost_nano_usd is not None
    assert raced.cost_nano_usd - alone.cost_nano_usd == 1_000 * 1_000
    assert settled(outcome=outcome(attempt=1, attempts=2, outrun=(3,))).cost_nano_usd is None  # no price is known
