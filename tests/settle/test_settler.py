"""The settler as it runs: a process, a gRPC channel to its socket, a journal on disk."""

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from extproc import runtime
from extproc.errors import AnswerUnread
from extproc.paths import Paths
from extproc.settings import parse
from extproc.settle.als import METHOD
from extproc.wire import M_CROWDED
from tests.settle.builders import decision, entry, message, outcome

SETTINGS = """
providers: {openai: {format: openai, base_url: "http://127.0.0.1:9"}}
models: [{name: gpt, provider: openai}]
teams: [{id: team-search, keys: [sk-search]}]
retention: 36500d  # the builders' rows are of one day, from which we go away
"""


class Settler:
    """One settler at a time, on one data directory. `state`: whose ledger; none is there by default."""

    def __init__(self, data_dir: Path, state: str = "embedded") -> None:
        self.paths = Paths.of(data_dir)
        data_dir.mkdir(exist_ok=True)
        runtime.write(parse(f"{SETTINGS}state: {{url: '{state}'}}", {}), self.paths.runtime)
        self.process: subprocess.Popen[str] | None = None
        self.log = ""

    def start(self) -> None:
        code = f"from pathlib import Path; from extproc.settle.main import run; run(Path({str(self.paths.data_dir)!r}))"
        self.process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=30)
        self.log += log
        return self.process.returncode

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(f"{self.paths.journal.as_uri()}?mode=ro", uri=True)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()

    def rows(self) -> dict[str, str]:
        return dict(self.query("SELECT request_id, status FROM audit"))


@pytest.fixture
def settler() -> Iterator[Settler]:
    with tempfile.TemporaryDirectory(prefix="settler-") as folder:
        settler = Settler(Path(folder))
        settler.start()
        yield settler
        if settler.process is not None and settler.process.poll() is None:
            settler.stop(signal.SIGKILL)


@asynccontextmanager
async def stream(settler: Settler) -> AsyncIterator[grpc.aio.StreamUnaryCall]:
    """A log stream as Envoy opens it."""
    async with grpc.aio.insecure_channel(f"unix:{settler.paths.settler_socket}") as channel:
        await asyncio.wait_for(channel.channel_ready(), 30)
        yield channel.stream_unary(METHOD)()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


def went_well(request_id: str) -> bytes:
    return entry(request_id=request_id, decision=decision(request_id=request_id), outcome=outcome())


async def test_entries_become_rows(settler: Settler) -> None:
    async with stream(settler) as requests, stream(settler) as attempts:
        await requests.write(message(went_well("a"), went_well("b"), log_name="request"))
        await requests.write(message(went_well("c")))  # the log is named in the first message only
        await attempts.write(message(entry(request_id="a", cluster="provider-openai"), log_name="attempt"))
        await attempts.write(message(entry(request_id="b", cluster="fallback-0")))
        await until(lambda: len(settler.rows()) == 3 and bool(settler.query("SELECT 1 FROM attempt")))
    assert set(settler.rows().values()) == {"success"}
    assert settler.query("SELECT request_id, provider, verdict FROM attempt") == [("a", "openai", "ok")]


async def test_what_cannot_be_read_does_not_end_the_stream(settler: Settler) -> None:
    async with stream(settler) as requests:
        await requests.write(message(went_well("a"), log_name="request"))
        await requests.write(b"\xff\xff no protobuf at all")
        await requests.write(b"")
        await requests.write(message(went_well("b")))
        await until(lambda: len(settler.rows()) == 2)
    async with stream(settler) as strange:
        await strange.write(message(went_well("c"), log_name="another"))
        unreadable = "SELECT value FROM counter WHERE name = 'unreadable_entries'"
        await until(lambda: settler.query(unreadable) == [(2,)])
    assert set(settler.rows()) == {"a", "b"}


async def test_nobody_in_particular_makes_no_row_but_a_count(settler: Settler) -> None:
    async with stream(settler) as requests:
        nobody = [entry(request_id=f"u{n}", team=None, status=401, attempts=0) for n in range(3)]
        other = entry(request_id="h", team=None, status=200, cluster="control")
        await requests.write(message(*nobody, other, went_well("a"), log_name="request"))
        await until(lambda: bool(settler.rows()))
    assert settler.query("SELECT name, value FROM counter") == [("unauthenticated_requests", 3)]
    assert set(settler.rows()) == {"a"}


async def test_answers_that_could_not_pass_or_be_read_are_counted(settler: Settler) -> None:
    entries = [
        entry(request_id="a", decision=decision(), outcome=outcome(error_code=AnswerUnread.code), status=502),
        entry(request_id="b", decision=decision(), outcome=outcome(), metadata={M_CROWDED: True}),
        went_well("c"),
    ]
    async with stream(settler) as requests:
        await requests.write(message(*entries, log_name="request"))
        await until(lambda: len(settler.rows()) == 3)
    counts = settler.query("SELECT name, value FROM counter ORDER BY name")
    assert counts == [("crowded_answers", 1), ("unread_answers", 1)]


async def test_the_end_loses_nothing(settler: Settler) -> None:
    async with stream(settler) as requests:
        first, *rest = [went_well(f"r{n}") for n in range(400)]
        await requests.write(message(first, log_name="request"))
        await until(lambda: bool(settler.rows()))  # it is up
        for start in range(0, len(rest), 50):
            await requests.write(message(*rest[start : start + 50]))
        assert await asyncio.to_thread(settler.stop) == 0
    assert len(settler.rows()) == 400
    lines = [json.loads(line) for line in settler.log.splitlines()]
    # No ledger here: rows stay to be charged at the next start.
    assert [line["event"] for line in lines if "run-time" not in line["event"]] == [
        "serving",
        "health is not shared now",
        "rows wait to be charged",
        "stopped",
    ]
    assert {line["process"] for line in lines} == {"settler"}


async def test_kill_9_loses_no_committed_row_and_repeats_none(settler: Settler) -> None:
    seen: set[str] = set()
    for round_ in range(3):
        if round_:
            settler.start()
        async with stream(settler) as requests:
            # The last round's rows come again, as from an Envoy that sends once more.
            names = [f"{n}-{i}" for n in range(max(0, round_ - 1), round_ + 1) for i in range(100)]
            await requests.write(message(*map(went_well, names[:1]), log_name="request"))

            async def keep_sending(requests: grpc.aio.StreamUnaryCall = requests, names: list[str] = names) -> None:
                for name in names[1:]:
                    await requests.write(message(went_well(name)))
                    await asyncio.sleep(0.002)

            sending = asyncio.create_task(keep_sending())
            wanted = len(seen) + 30
            await until(lambda wanted=wanted: len(settler.rows()) >= wanted)
            committed = set(settler.rows())
            await asyncio.to_thread(settler.stop, signal.SIGKILL)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        assert seen | committed <= set(settler.rows())
        seen = set(settler.rows())
    assert settler.query("PRAGMA integrity_check") == [("ok",)]
    assert settler.query("SELECT sum(requests) FROM sums WHERE bucket_s = 0") == [(len(seen),)]


async def test_sizes_of_answers_are_known_again_after_a_restart(settler: Settler) -> None:
    def answer(request_id: str, size: int, **given: Any) -> bytes:
        return entry(request_id=request_id, decision=decision(request_id=request_id), body_bytes=size, **given)

    async with stream(settler) as requests:
        # 50 tokens in 300 + 50 * 1,000 bytes: far from any guess.
        whole = [answer(f"w{n}", 50_300, outcome=outcome()) for n in range(5)]
        await requests.write(message(*whole, log_name="request"))
        await until(lambda: len(settler.rows()) == 5)
    assert await asyncio.to_thread(settler.stop) == 0
    settler.start()
    async with stream(settler) as requests:
        cut = answer("cut", 20_300, flags=("downstream_connection_termination",))
        await requests.write(message(cut, log_name="request"))
        await until(lambda: len(settler.rows()) == 6)
    (row,) = settler.query("SELECT status, estimated, output_tokens FROM audit WHERE request_id = 'cut'")
    assert row[:2] == ("cancelled", 1)
    assert row[2] == pytest.approx(20, abs=1)


async def test_a_locked_journal_neither_ends_streams_nor_loses_rows(settler: Settler) -> None:
    async with stream(settler) as requests:
        await requests.write(message(went_well("a"), log_name="request"))
        await until(lambda: len(settler.rows()) == 1)
        blocker = sqlite3.connect(settler.paths.journal, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        await requests.write(message(*(went_well(f"b{n}") for n in range(20))))
        await asyncio.sleep(3)  # longer than SQLite itself waits for a lock
        await requests.write(message(went_well("c")))
        blocker.execute("ROLLBACK")
        blocker.close()
        await until(lambda: len(settler.rows()) == 22)
