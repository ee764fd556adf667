"""First-byte deadlines: from the p99, within limits, longer for what takes longer, and not cutting off a stand-in."""

from typing import Any

import pytest

from extproc.records import Target
from extproc.routing.deadline import Asked, Deadline, deadline
from extproc.routing.health import Latency, Standings
from extproc.routing.standing import View
from extproc.settings import Breaker, Routing

FAST, SLOW, COLD = (
    Target(model=name, upstream_name=name, provider=name, format="openai") for name in ("fast", "slow", "cold")
)


def of(*targets: Target, routing: dict[str, Any] | None = None, **asked: Any) -> Deadline:
    view = View(Breaker())
    view.standings = Standings(
        latencies={
            "fast/fast": Latency(first_byte_p99_ms=500, whole_p99_ms=2_000),
            "slow/slow": Latency(first_byte_p99_ms=3_000, whole_p99_ms=100_000),
        }
    )
    return deadline(view, targets, Asked(**({"stream": True} | asked)), Routing.model_validate(routing or {}))


@pytest.mark.parametrize(
    ("found", "ms"),
    [
        (of(FAST, FAST), 1_500),
        (of(FAST, FAST, stream=False), 6_000),
        (of(FAST, FAST, stream=False, length=2.0), 12_000),
        (of(FAST, FAST, length=2.0), 1_500),  # a stream's first byte does not wait for its last
        (of(FAST, FAST, input_tokens=50_000), 6_500),
        (of(FAST, FAST, routing={"deadlines": {"min": 5}}), 5_000),
        (of(SLOW, SLOW, stream=False), 120_000),
        (of(COLD, COLD), 30_000),
        (of(COLD, COLD, stream=False), 120_000),
        (of(COLD, COLD, routing={"deadlines": {"cold": 7}}), 7_000),
    ],
)
def test_the_first_targets_decides(found: Deadline, ms: int) -> None:
    assert found == Deadline(ms, race=True)


@pytest.mark.parametrize("other", [FAST, SLOW, COLD])
def test_nobody_is_cut_off_by_a_guess(other: Target) -> None:
    assert of(FAST, other) == Deadline(1_500, race=True)
    assert of(FAST, other, routing={"hedge": True}) == Deadline(1_500, race=True, hedge=True)


@pytest.mark.parametrize("asked", [{}, {"stream": False}, {"routing": {"hedge": True}}])
def test_trap_36_with_nobody_to_turn_to_a_model_may_think_as_long_as_it_likes(asked: dict[str, Any]) -> None:
    assert of(FAST, **asked) == Deadline(0)


def test_a_fixed_deadline_is_everyones() -> None:
    assert of(FAST, SLOW, routing={"first_byte_timeout": "2s"}) == Deadline(2_000)
    assert of(FAST, routing={"first_byte_timeout": "2s", "hedge": True}) == Deadline(2_000)
    assert of(FAST, SLOW, routing={"first_byte_timeout": "2s", "hedge": True}) == Deadline(2_000, race=True, hedge=True)
