"""What a worker keeps of requests whose answer has not begun."""

import json

import pytest

from extproc.catalog import compile_catalog
from extproc.chat import LARGE_BYTES, read_chat
from extproc.errors import NoProviderAvailable
from extproc.exchange import live
from extproc.exchange.live import Live
from extproc.plan import Plan
from extproc.records import Decision
from extproc.routing.deadline import Deadline
from tests.exchange.test_exchange import SETTINGS

CATALOG = compile_catalog(SETTINGS)


async def plan(request_id: str, size: int) -> Plan:
    body = json.dumps({"model": "gpt", "messages": [{"role": "user", "content": "x" * size}]}).encode()
    decision = Decision(
        request_id=request_id,
        team_id="search",
        model_requested="gpt",
        received_at=0.0,
        targets=(CATALOG.targets["gpt"],),
    )
    return Plan(await read_chat(body), decision, "c", CATALOG.endpoints, Deadline(1000), alone=True)


async def test_the_oldest_large_bodies_give_way_and_small_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "KEPT_BYTES", 4 * LARGE_BYTES)
    kept, plans = Live(), [await plan(str(number), LARGE_BYTES) for number in range(9)]
    small = await plan("small", 10)
    for each in (small, *plans):
        kept.add(each)
    assert len(kept) == 1 + 3  # each has some bytes more than LARGE_BYTES
    for each in plans[:6]:
        assert not each.chat.text
        with pytest.raises(NoProviderAvailable):
            kept.find(each.decision.request_id)
    assert [kept.find(each.decision.request_id) for each in (small, *plans[6:])] == [small, *plans[6:]]
    for each in plans:
        kept.remove(each)
        kept.remove(each)
    assert kept._kept_bytes == 0
    assert len(kept) == 1


@pytest.mark.parametrize("size", [10, LARGE_BYTES])
async def test_the_next_attempt_is_made_of_what_was_kept(size: int) -> None:
    asked = await plan("1", size)
    first = asked.first(0)
    sent = first.request.body
    asked.keep_little()
    assert not first.request.body
    assert bool(asked.chat.body) == (size < LARGE_BYTES)
    assert asked.following(1).request.body == sent


async def test_what_passes_is_kept_until_its_next_attempt_must_have_begun() -> None:
    kept, first, second = Live(), await plan("1", 10), await plan("2", LARGE_BYTES)
    for each in (first, second):
        kept.add(each)
        assert kept.pass_on(each, 0)
    due = first.patience_ns
    assert kept.pass_on(second, due - 1)  # its next one has
    assert kept.pass_on(await plan("3", 10), due)
    with pytest.raises(NoProviderAvailable):
        kept.find("1")
    assert kept.find("2") is second
    assert kept.may_be_asked(due)
    assert kept.pass_on(await plan("4", 10), 2 * due)
    assert len(kept) == 0
    assert kept._kept_bytes == 0
    assert not kept.may_be_asked(3 * due)


async def test_beyond_its_bound_nothing_is_kept_and_nothing_forgotten(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    kept, plans = Live(), [await plan(str(number), 10) for number in range(9)]
    monkeypatch.setattr(live, "PASSING_BYTES", 3 * (live.PLAN_BYTES + len(plans[0].chat.text)))
    for each in plans:
        kept.add(each)
    assert [kept.pass_on(each, 0) for each in plans] == [True] * 3 + [False] * 6
    assert [kept.find(each.decision.request_id) for each in plans] == plans
    kept.remove(plans[0])
    assert kept.pass_on(plans[3], 0)
    assert not kept.pass_on(plans[4], 0)
    assert kept.pass_on(plans[4], plans[1].patience_ns)
    assert [line.message for line in caplog.records] == [
        "too many answers pass; others are looked at",
        "all answers pass again",
    ] * 2
