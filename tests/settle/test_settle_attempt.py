"""Entry -> attempt row: what each attempt says about its provider."""

from typing import Any

import pytest

from extproc.settle.attempts import settle_attempt
from extproc.settle.rows import AttemptRow
from tests.settle.builders import STARTED_S, entry, parsed


def settled(**given: Any) -> AttemptRow | None:
    return settle_attempt(parsed(entry(**({"cluster": "provider-openai"} | given))))


def test_an_attempt_that_went_well() -> None:
    assert settled(route="model:gpt-4o", headers={"content-type": "text/event-stream; charset=utf-8"}) == AttemptRow(
        request_id="r1",
        provider="openai",
        model="gpt-4o",
        started_at=STARTED_S,
        verdict="ok",
        status=200,
        flags="",
        first_byte_ms=200.0,
        total_ms=880.0,
        stream=True,
        retry_after_s=None,
        at=STARTED_S + 0.9,
    )


def test_a_stream_in_awss_frames_is_one() -> None:
    row = settled(headers={"content-type": "application/vnd.amazon.eventstream"})
    assert row is not None
    assert row.stream


VERDICTS: dict[tuple[int, tuple[str, ...]], str] = {
    (200, ()): "ok",
    (400, ()): "ok",
    (404, ()): "ok",
    (422, ()): "ok",
    (401, ()): "error",
    (402, ()): "error",
    (403, ()): "error",
    (408, ()): "error",
    (424, ()): "error",
    (429, ()): "rate_limited",
    (500, ()): "error",
    (529, ()): "error",
    (0, ()): "abandoned",
    (0, ("downstream_remote_reset",)): "abandoned",
    (0, ("upstream_connection_failure",)): "error",
    (503, ("no_healthy_upstream",)): "error",
    (0, ("upstream_request_timeout",)): "error",
    (200, ("upstream_request_timeout",)): "ok",
    (500, ("upstream_request_timeout",)): "error",
    (200, ("upstream_remote_reset",)): "error",
    (200, ("downstream_connection_termination",)): "ok",
}


@pytest.mark.parametrize(("status", "flags"), VERDICTS)
def test_what_an_attempt_says_of_its_provider(status: int, flags: tuple[str, ...]) -> None:
    row = settled(status=status, flags=flags)
    assert row is not None
    assert (row.verdict, row.flags) == (VERDICTS[status, flags], ",".join(flags))


def test_a_providers_name_may_have_dashes() -> None:
    row = settled(cluster="provider-my-vllm")
    assert row is not None
    assert row.provider == "my-vllm"


@pytest.mark.parametrize("cluster", ["fallback-0", "chain-openai-0", "control", ""])
def test_hops_inside_the_gateway_are_no_attempts(cluster: str) -> None:
    assert settled(cluster=cluster) is None


def test_an_attempt_without_an_answer_has_no_times() -> None:
    row = settled(status=0, time_to_first_upstream_rx_byte=None, time_to_last_upstream_rx_byte=None)
    assert row is not None
    assert (row.status, row.first_byte_ms, row.total_ms) == (None, None, None)


@pytest.mark.parametrize(
    ("status", "headers", "wait_s"),
    [
        (429, {"retry-after": "7"}, 7.0),
        (429, {"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        (429, {"retry-after": "Mon, 21 Sep 2026 14:28:10 GMT"}, 889.1),
        (429, {"retry-after": "soon"}, None),
        (429, {}, None),
        (503, {"retry-after": "7"}, None),
    ],
)
def test_how_long_a_provider_wants_to_be_left_alone(status: int, headers: dict[str, str], wait_s: float) -> None:
    row = settled(status=status, headers=headers)
    assert row is not None
    assert row.retry_after_s == (wait_s if wait_s is None else pytest.approx(wait_s))
