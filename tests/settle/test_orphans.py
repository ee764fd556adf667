"""Requests that end before anybody told Envoy whose they are."""

import asyncio

import pytest

from extproc.budget.ledger import LedgerUnavailable
from extproc.settle.orphans import Orphans
from extproc.settle.settle import settle_request
from extproc.wire import LOG_REQUEST
from protos.gen import accesslog_pb2 as pb


class Ledger:
    def __init__(self, holds: dict[str, set[str]]) -> None:
        self.holds = holds
        self.away = False

    async def held(self, team_id: str, hold_ids: list[str]) -> set[str]:
        if self.away:
            raise LedgerUnavailable("away")
        return self.holds.get(team_id, set()) & set(hold_ids)


class Taken:
    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self.left: dict[str, str] = {}

    def __call__(self, name: str, entry: pb.HTTPAccessLogEntry) -> None:
        row = settle_request(entry, lambda *_: 0)
        assert row is not None
        assert (name, row.status) == (LOG_REQUEST, "failed")
        self.found[row.request_id] = row.team_id

    async def leave(self, team_id: str, request_id: str) -> None:
        self.left[request_id] = team_id


def ended(request_id: str, *, details: str = "ext_proc_error", cluster: str = "") -> pb.HTTPAccessLogEntry:
    entry = pb.HTTPAccessLogEntry()
    entry.request.request_id = request_id
    entry.common_properties.upstream_cluster = cluster
    entry.response.response_code.value = 503
    entry.response.response_code_details = details
    return entry


def test_the_team_is_the_one_that_holds_for_it() -> None:
    ledger, taken = Ledger({"a": {"r1"}, "b": {"r2"}}), Taken()
    orphans = Orphans(ledger, lambda: ("a", "b"), taken.leave)
    for request_id in ("r1", "r2", "r3"):
        orphans.add(ended(request_id))
    asyncio.run(orphans.step(taken))
    assert taken.found == taken.left == {"r1": "a", "r2": "b"}
    ledger.holds["a"].add("r3")  # asked once: what took nothing then is over
    asyncio.run(orphans.step(taken))
    assert "r3" not in taken.found


def test_it_waits_while_the_ledger_is_away() -> None:
    ledger, taken = Ledger({"a": {"r1"}}), Taken()
    orphans = Orphans(ledger, lambda: ("a",), taken.leave)
    orphans.add(ended("r1"))
    ledger.away = True
    with pytest.raises(LedgerUnavailable):
        asyncio.run(orphans.step(taken))
    ledger.away = False
    asyncio.run(orphans.step(taken))
    assert taken.found == {"r1": "a"}


def test_what_was_answered_or_sent_on_is_nobodys_orphan() -> None:
    ledger, taken = Ledger({"a": {"r1", "r2"}}), Taken()
    orphans = Orphans(ledger, lambda: ("a",), taken.leave)
    orphans.add(ended("r1", details="gateway_invalid_api_key"))
    orphans.add(ended("r2", cluster="control"))
    asyncio.run(orphans.step(taken))
    assert not taken.found
