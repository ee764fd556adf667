"""The writer: rows reach the journal, whatever happens to it meanwhile."""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from extproc.settle.journal import connect
from extproc.settle.retention import Retention
from extproc.settle.rows import AuditRow
from extproc.settle.writer import Writer
from tests.settle.builders import STARTED_S, attempt, audit

YEAR_S = 365 * 86_400.0


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    connect(tmp_path / "journal.db").close()
    return tmp_path / "journal.db"


def ids(path: Path, table: str = "audit") -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute(f"SELECT request_id FROM {table} ORDER BY id")]
    finally:
        connection.close()


def started(path: Path, **options: object) -> Writer:
    writer = Writer(partial(connect, path), Retention(YEAR_S), wall_s=lambda: STARTED_S, **options)  # type: ignore[arg-type]
    writer.start()
    return writer


@pytest.fixture
def writer(path: Path) -> Iterator[Writer]:
    writer = started(path)
    yield writer
    writer.close(5)


def test_rows_are_written_without_being_asked_for(path: Path, writer: Writer) -> None:
    writer.add(audit("a"))
    until(lambda: ids(path) == ["a"])
    writer.add(audit("b"))
    writer.add(attempt("b"))
    until(lambda: ids(path) == ["a", "b"] and ids(path, "attempt") == ["b"])


def test_closing_writes_what_waits(path: Path) -> None:
    writer = started(path)
    expected = [f"r{n}" for n in range(10_000)]
    for request_id in expected:
        writer.add(audit(request_id))
    assert writer.close(30) == 0
    assert ids(path) == expected


def test_rows_from_many_threads_all_arrive(path: Path) -> None:
    writer = started(path)
    threads = [
        threading.Thread(target=lambda n=n: [writer.add(audit(f"{n}-{i}")) for i in range(200)]) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.close(30) == 0
    assert len(set(ids(path))) == 1_600


def test_a_locked_journal_is_waited_for(path: Path, writer: Writer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    writer.add(audit("a"))
    until(lambda: ids(path) == ["a"])
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    for n in range(50):
        writer.add(audit(f"b{n}"))
    until(lambda: "rows wait in memory" in caplog.text)
    blocker.execute("ROLLBACK")
    blocker.close()
    until(lambda: len(ids(path)) == 51)
    until(lambda: "journal is written again" in caplog.text)
    assert caplog.text.count("rows wait in memory") == 1


def test_a_full_disk_is_waited_for(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SQLite's own limit of pages gives the very error of a full disk."""
    full = threading.Event()

    def limited() -> sqlite3.Connection:
        connection = connect(path)
        if full.is_set():
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    full.set()
    writer = Writer(limited, Retention(YEAR_S), wall_s=lambda: STARTED_S)
    writer.start()
    rows = [f"r{n}" for n in range(300)]
    for request_id in rows:
        writer.add(audit(request_id))
    until(lambda: "database or disk is full" in str([vars(record) for record in caplog.records]))
    assert ids(path) == []
    full.clear()
    until(lambda: ids(path) == rows)
    assert writer.close(5) == 0


def test_memory_is_bounded_and_what_is_dropped_is_counted(path: Path) -> None:
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    writer = started(path, most_waiting=100)
    for n in range(250):
        writer.add(audit(f"r{n}"))
    blocker.execute("ROLLBACK")
    blocker.close()
    assert writer.close(30) == 0
    connection = sqlite3.connect(path)
    (kept,) = connection.execute("SELECT count(*) FROM audit").fetchone()
    (dropped,) = connection.execute("SELECT value FROM counter WHERE name = 'dropped_rows'").fetchone()
    assert (kept, dropped) == (100, 150)


def test_giving_up_tells_how_many_rows_were_lost(path: Path) -> None:
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    writer = started(path)
    for n in range(7):
        writer.add(audit(f"r{n}"))
    assert writer.close(0.2) == 7
    blocker.close()


@pytest.mark.parametrize("bad", [{"input_tokens": 2**70}, {"details": "\ud800"}])
def test_a_row_that_cannot_be_written_costs_no_other(
    path: Path, bad: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    writer = started(path)
    for n in range(20):
        writer.add(audit(f"r{n}", **(bad if n == 10 else {})))
    writer.count("x")
    assert writer.close(10) == 0
    assert ids(path) == [f"r{n}" for n in range(20) if n != 10]
    assert caplog.text.count("row cannot be written") == 1
    connection = sqlite3.connect(path)
    assert dict(connection.execute("SELECT name, value FROM counter")) == {"x": 1, "unwritable_rows": 1}


def test_old_rows_are_deleted(path: Path) -> None:
    old: list[AuditRow] = [audit(f"o{n}", received_at=STARTED_S - 2 * YEAR_S) for n in range(1_200)]
    writer = started(path)
    for row in [*old, audit("new")]:
        writer.add(row)
    until(lambda: ids(path) == ["new"])
    assert writer.close(5) == 0
