"""A settler that was away reads what ended meanwhile before it looks for leases that ended, and takes its time."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from extproc.budget.redis import RedisLedger
from extproc.budget.windows import windows_at
from extproc.settle.follow import Follower
from extproc.settle.journal import Batch, write
from extproc.settle.journal import connect as connect_journal
from extproc.settle.recent import Recent
from extproc.settle.settle import settle_request
from extproc.state.redis_py import connect
from protos.gen import accesslog_pb2 as pb
from tests.budget.builders import NOON_MS, reservation
from tests.budget.conftest import Valkey
from tests.settle.builders import TEAM, audit, decision, outcome
from tests.settle.test_settler import Settler, until

LINES = 3_000  # more than are read at once


def line(request_id: str) -> str:
    """As Envoy writes it, of 150 tokens."""
    said = {
        name: msgspec.json.encode(record).decode()
        for name, record in (("decision", decision(request_id=request_id)), ("outcome", outcome()))
    }
    return json.dumps(said | {"id": request_id, "start": "1790000000.000000", "team": TEAM, "code": 200}) + "\n"


@pytest.fixture
def state() -> Iterator[Valkey]:
    valkey = Valkey().start()
    yield valkey
    valkey.close()


async def test_only_holds_of_requests_that_never_ended_are_unreconciled(state: Valkey, tmp_path: Path) -> None:
    """Of both kinds, all with a lease that is over; the log has so many lines that reading them takes a while. What
    they hold is held of a day that cannot end meanwhile."""
    client = connect(state.url)
    ledger, now_ms, day = RedisLedger(client), round(time.time() * 1000), windows_at(NOON_MS)
    ended, lost = [f"ended-{number}" for number in range(40)], [f"lost-{number}" for number in range(3)]
    for hold in ended + lost:
        await ledger.reserve(reservation(TEAM, hold, now_ms=now_ms - 60_000, lease_ms=1, windows=day))
    settler = Settler(tmp_path / "data", state.url)
    settler.paths.request_log.write_text("".join(map(line, [*(f"other-{n}" for n in range(LINES)), *ended])))
    settler.start()
    try:

        def settled() -> bool:
            try:
                return settler.query("SELECT count(*), min(charged) FROM audit") == [(LINES + len(ended + lost), 1)]
            except sqlite3.OperationalError:  # not made yet
                return False

        await until(settled)
    finally:
        settler.stop()
    unreconciled = settler.query("SELECT request_id FROM audit WHERE error_code = 'unreconciled' ORDER BY 1")
    assert [row[0] for row in unreconciled] == lost
    told = [json.loads(each) for each in settler.log.splitlines()]
    assert sum(each["holds"] for each in told if each["event"] == "unreconciled holds charged as held") == len(lost)
    daily = (await ledger.usage(TEAM, now_ms, day)).standing.daily
    assert (daily.held_tokens, daily.used_tokens) == (
        0,
        150 * len(ended) + 100 * len(lost),
    )  # the others have no hold, in an earlier month
    await client.aclose()


async def test_a_part_that_fails_ends_the_settler(state: Valkey, tmp_path: Path) -> None:
    """The charger, by a cost that no settler writes: without it all others would go on, and nothing be charged."""
    settler = Settler(tmp_path / "data", state.url)
    journal = connect_journal(settler.paths.journal)
    write(journal, Batch([audit("r1", team_id=TEAM, cost_nano_usd=2**60)]))
    journal.close()
    settler.start()
    assert settler.process is not None
    assert await asyncio.to_thread(settler.process.wait, 30) == 1
    settler.log = settler.process.stderr.read() if settler.process.stderr else ""
    (told,) = (json.loads(line) for line in settler.log.splitlines() if "failed" in line)
    assert (told["level"], told["event"]) == ("error", "a part of the settler failed")


async def test_what_the_journal_cannot_take_now_stays_in_the_log(tmp_path: Path) -> None:
    log, recent, taken, unwritten = tmp_path / "requests.log", Recent(), list[str](), 10**6

    def take(_: str, entry: pb.HTTPAccessLogEntry) -> None:
        row: Any = settle_request(entry, lambda *_: (0, 0))
        taken.append(row.request_id)
        recent.add(row.request_id)

    log.write_text("".join(line(f"r{number}") for number in range(LINES)))
    follower = Follower(log, tmp_path / "admin", recent, lambda _: set(), take, unwritten=lambda: unwritten)
    assert not await follower.step(0.0)
    assert not taken
    assert not follower.caught_up.is_set()
    unwritten = 0
    while await follower.step(0.0):
        assert not follower.caught_up.is_set()
        await asyncio.sleep(0)
    assert taken == [f"r{number}" for number in range(LINES)]
    assert follower.caught_up.is_set()
