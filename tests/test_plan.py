"""Attempts of one request in the order Envoy asks for them: which were under way when another one answered."""

import json

import pytest

from extproc.catalog import compile_catalog
from extproc.chat import read_chat
from extproc.plan import Plan
from extproc.records import Decision
from extproc.routing.deadline import Deadline
from extproc.settings import parse

SETTINGS = parse(
    """
providers: {a: {format: openai, base_url: "http://127.0.0.1:9/v1", credential: x}}
models: [{name: one, provider: a}, {name: two, provider: a}, {name: three, provider: a}]
teams: [{id: t, keys: [sk-t]}]
""",
    {},
)
CATALOG = compile_catalog(SETTINGS)
DEADLINE_NS = 300_000_000


async def raced() -> Plan:
    body = json.dumps({"model": "one", "messages": [{"role": "user", "content": "hi"}]}).encode()
    targets = tuple(CATALOG.targets[name] for name in ("one", "two", "three"))
    decision = Decision(request_id="r", team_id="t", model_requested="one", received_at=0.0, targets=targets)
    return Plan(await read_chat(body), decision, "c", CATALOG.endpoints, Deadline(300, race=True, hedge=True))


@pytest.mark.parametrize("late_ns", [0, 1_000_000, 150_000_000])
async def test_who_is_asked_late_was_under_way_as_long_as_envoy_waited(late_ns: int) -> None:
    """Envoy's time for the second attempt runs while the worker, which is busy, has not been asked what to send."""
    plan = await raced()
    first = plan.first(0)
    plan.following(DEADLINE_NS + late_ns)
    plan.following(2 * DEADLINE_NS + 1_000_000)
    assert plan.outrun(first) == (2, 3)


async def test_who_failed_before_its_time_is_not_paid() -> None:
    plan = await raced()
    plan.first(0)
    plan.following(DEADLINE_NS // 2)
    last = plan.following(DEADLINE_NS)
    assert plan.outrun(last) == ()
    plan = await raced()
    plan.first(0)
    plan.following(DEADLINE_NS)
    last = plan.following(DEADLINE_NS + DEADLINE_NS // 2)
    assert plan.outrun(last) == (1,)
