"""From the journal to a real PostgreSQL: each row once, whatever dies when; and what is told of it."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from control.audit_metrics import families
from extproc.audit import shipper as shipping
from extproc.audit.database import journal_engine, to_write
from extproc.audit.migrations import MIGRATIONS, migrate
from extproc.audit.shipper import Shipper, marks_of, retention_of
from extproc.audit.tables import ATTEMPT, AUDIT, SUMS
from extproc.audit.target import Target
from extproc.settings import Settings, parse
from extproc.settings.audit import Audit
from extproc.settle.journal import Batch, Connection, connect, write
from extproc.settle.marks import mark
from extproc.settle.retention import delete_before
from extproc.settle.rows import UNRECONCILED
from tests.audit.postgres import PASSWORD, Postgres
from tests.envoy.harness import wait_until
from tests.settle.builders import STARTED_S, attempt, audit

DAY_S = 86_400.0


def settings(audit: Audit) -> Settings:
    minimal = parse(
        """
providers: {openai: {format: openai, base_url: "http://127.0.0.1:9"}}
models: [{name: gpt, provider: openai}]
teams: [{id: team-search, keys: [sk-search]}]
""",
        {},
    )
    return minimal.model_copy(update={"audit": audit})


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Connection]:
    connection = connect(tmp_path / "journal.db")
    yield connection
    connection.close()


def shipper_of(tmp_path: Path, given: Settings) -> Shipper:
    return Shipper(partial(connect, tmp_path / "journal.db"), lambda: given, lambda: STARTED_S)


def shipped(audit: Audit) -> dict[str, str]:
    """Status by request; the sums agree."""
    engine = to_write(audit)
    with engine.connect() as connection:
        found = {row.request_id: row.status for row in connection.execute(select(AUDIT))}
        rows = connection.execute(select(func.count()).select_from(AUDIT)).scalar_one()
        requests = connection.execute(select(func.coalesce(func.sum(SUMS.c.requests), 0))).scalar_one()
    engine.dispose()
    assert len(found) == rows == requests
    return found


def test_rows_and_attempts_are_copied_once(tmp_path: Path, journal: Connection, audit_settings: Audit) -> None:
    write(journal, Batch([audit("a"), audit("b")], [attempt("a"), attempt("b")]))
    work = shipper_of(tmp_path, settings(audit_settings))
    assert (work.step(), work.step()) == (2, 0)
    write(journal, Batch([audit("c")]))
    assert (work.step(), work.step()) == (1, 0)
    assert set(shipped(audit_settings)) == {"a", "b", "c"}


def test_a_hold_that_expired_gives_way_to_its_request(
    tmp_path: Path, journal: Connection, audit_settings: Audit
) -> None:
    work = shipper_of(tmp_path, settings(audit_settings))
    write(journal, Batch([audit("a", status="failed", error_code=UNRECONCILED)]))
    work.step()
    assert shipped(audit_settings) == {"a": "failed"}
    write(journal, Batch([audit("a")]))
    assert work.step() == 1
    assert shipped(audit_settings) == {"a": "success"}


def test_a_journal_that_takes_no_mark_is_told_once_and_doubles_nothing(
    tmp_path: Path, journal: Connection, audit_settings: Audit, caplog: pytest.LogCaptureFixture
) -> None:
    """Its disk is full: what was copied is copied again, and found done."""
    caplog.set_level(logging.INFO)
    write(journal, Batch([audit("a")]))
    full = True

    def opened() -> Connection:
        connection = connect(tmp_path / "journal.db")
        connection.execute(f"PRAGMA query_only = {full}")
        return connection

    work = Shipper(opened, lambda: settings(audit_settings), lambda: STARTED_S)
    assert [work.step() for _ in range(3)] == [0, 0, 0]
    full = False
    assert (work.step(), work.step()) == (1, 0)
    assert set(shipped(audit_settings)) == {"a"}
    told = [record.message for record in caplog.records if record.message.startswith("journal")]
    assert told == ["journal cannot be used for the audit database", "journal is used again"]


def test_a_crash_before_the_mark_repeats_and_does_not_double(
    tmp_path: Path, journal: Connection, audit_settings: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(journal, Batch([audit("a"), audit("b")], [attempt("a")]))

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shipping, "advance", crash)
        with pytest.raises(KeyboardInterrupt):
            shipper_of(tmp_path, settings(audit_settings)).step()
    assert mark(journal, marks_of(audit_settings)["audit"]) == 0
    assert set(shipped(audit_settings)) == {"a", "b"}
    assert shipper_of(tmp_path, settings(audit_settings)).step() == 2
    assert set(shipped(audit_settings)) == {"a", "b"}


def test_another_database_gets_all_that_is_here(
    tmp_path: Path, journal: Connection, audit_settings: Audit, postgres: Postgres
) -> None:
    write(journal, Batch([audit("a")]))
    current = [settings(Audit())]
    work = Shipper(partial(connect, tmp_path / "journal.db"), lambda: current[0], lambda: STARTED_S)
    assert work.step() == 0
    current[0] = settings(audit_settings)
    assert work.step() == 1
    other = Audit(url=postgres.database())
    current[0] = settings(other)
    assert work.step() == 1
    assert set(shipped(audit_settings)) == set(shipped(other)) == {"a"}


def test_a_row_that_is_never_taken_holds_up_no_other(
    tmp_path: Path, journal: Connection, audit_settings: Audit, caplog: pytest.LogCaptureFixture
) -> None:
    write(journal, Batch([audit("a"), audit("far", received_at=1e12), audit("b")], [attempt("a")]))
    assert shipper_of(tmp_path, settings(audit_settings)).step() == 3
    assert set(shipped(audit_settings)) == {"a", "b"}
    assert [record.request_id for record in caplog.records if record.levelname == "ERROR"] == ["far"]
    assert journal.execute("SELECT value FROM counter WHERE name = 'refused_audit_rows'").fetchone() == (1,)


def test_what_is_not_copied_is_kept_and_what_is_goes(
    tmp_path: Path, journal: Connection, audit_settings: Audit
) -> None:
    write(journal, Batch([audit(f"r{n}") for n in range(3)], [attempt("r1")]))
    kept = retention_of(settings(audit_settings))
    assert delete_before(journal, STARTED_S + 2 * DAY_S, kept, 10) == 0
    shipper_of(tmp_path, settings(audit_settings)).step()
    assert delete_before(journal, STARTED_S + 0.5 * DAY_S, kept, 10) == 0
    assert delete_before(journal, STARTED_S + 2 * DAY_S, kept, 10) == 2  # the newest stays
    assert len(shipped(audit_settings)) == 3


def test_partitions_beyond_the_retention_are_dropped(
    tmp_path: Path, journal: Connection, audit_settings: Audit, caplog: pytest.LogCaptureFixture
) -> None:
    write(journal, Batch([audit("old", received_at=STARTED_S - 200 * DAY_S), audit("young")]))
    with caplog.at_level(logging.INFO):
        shipper_of(tmp_path, settings(audit_settings)).step()
    engine = to_write(audit_settings)
    with engine.connect() as connection:
        assert [row.request_id for row in connection.execute(select(AUDIT))] == ["young"]
    engine.dispose()
    assert any(record.message == "old partitions dropped" for record in caplog.records)


class TestAway:
    def test_rows_wait_until_it_is_back(
        self, tmp_path: Path, journal: Connection, postgres: Postgres, caplog: pytest.LogCaptureFixture
    ) -> None:
        here = Audit(url=postgres.database())
        given = settings(here)
        work = shipper_of(tmp_path, given)
        write(journal, Batch([audit("a")]))
        assert work.step() == 1
        postgres.stop()
        try:
            write(journal, Batch([audit(f"r{n}") for n in range(1_200)], [attempt(f"r{n}") for n in range(700)]))
            assert (work.step(), work.step()) == (0, 0)
            assert self.metrics(tmp_path, here) == {"gateway.audit.waiting": 1_200, "gateway.audit.lag": 99.1}
        finally:
            postgres.start()
        with caplog.at_level(logging.INFO):
            assert [work.step() for _ in range(4)] == [500, 500, 200, 0]
        assert len(shipped(here)) == 1_201
        assert self.metrics(tmp_path, here) == {"gateway.audit.waiting": 0, "gateway.audit.lag": 0.0}
        said = [record.message for record in caplog.records]
        assert said.count("audit database does not take rows; they wait in the journal") == 1
        assert said.count("audit database takes rows again") == 1

    @staticmethod
    def metrics(tmp_path: Path, audit: Audit) -> dict[str, float]:
        engine = journal_engine(tmp_path / "journal.db", 1)
        with engine.connect() as connection:
            found = families(connection, audit, STARTED_S + 100.0)
        engine.dispose()
        return {family.name: round(family.samples[0].value, 3) for family in found}

    def test_in_the_journal_alone_nothing_waits(self, tmp_path: Path, journal: Connection) -> None:
        write(journal, Batch([audit("a")]))
        assert self.metrics(tmp_path, Audit()) == {"gateway.audit.waiting": 0, "gateway.audit.lag": 0.0}

    @pytest.mark.parametrize(
        "change",
        [("/gw_", "/no_"), (PASSWORD, "wr0ng%2Fpass"), ("127.0.0.1", "no-such-host.invalid"), ("gw:", "nobody:")],
    )
    def test_what_is_said_holds_no_password(
        self, tmp_path: Path, journal: Connection, postgres: Postgres, caplog: pytest.LogCaptureFixture, change: Any
    ) -> None:
        given = settings(Audit(url=postgres.database().replace(*change)))
        write(journal, Batch([audit("a")]))
        assert shipper_of(tmp_path, given).step() == 0
        (record,) = [record for record in caplog.records if record.name == "extproc.audit.shipper"]
        assert record.reason
        said = str(vars(record)) + repr(given) + str(given.audit)
        assert not any(secret in said for secret in (PASSWORD, "wr0ng"))


def test_a_database_named_later_is_given_the_rows_at_once(
    tmp_path: Path, journal: Connection, audit_settings: Audit
) -> None:
    write(journal, Batch([audit("a")]))
    given, asked = [settings(Audit())], threading.Event()

    def now() -> Settings:
        asked.set()
        return given[0]

    work = Shipper(partial(connect, tmp_path / "journal.db"), now, lambda: STARTED_S)
    work.start()
    assert asked.wait(20)  # it rests now, until it is told to look
    given[0] = settings(audit_settings)
    work.look()
    wait_until(lambda: mark(journal, marks_of(audit_settings)["audit"]) == 1, 20, "the row")
    work.close(5)
    assert shipped(audit_settings) == {"a": "success"}


_SHIP = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from extproc.audit.shipper import Shipper
from extproc.settle.journal import connect
from tests.audit.test_shipper import settings
from extproc.settings.audit import Audit
shipper = Shipper(partial(connect, Path(sys.argv[1])), lambda: settings(Audit(url=sys.argv[2])))
shipper.start()
print("started", flush=True)
time.sleep(60)
"""


def _ship(journal: Path, audit: Audit) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parents[2]
    started = subprocess.Popen([sys.executable, "-c", _SHIP, str(journal), audit.url], stdout=subprocess.PIPE, cwd=root)
    assert started.stdout is not None
    started.stdout.readline()
    return started


def test_two_replicas_start_at_once_on_an_empty_database_and_one_is_killed(tmp_path: Path, postgres: Postgres) -> None:
    """Both make the tables, both copy; `kill -9` at any moment, and a successor."""
    here = Audit(url=postgres.database())
    journals = [tmp_path / "one.db", tmp_path / "two.db"]
    for number, path in enumerate(journals):
        connection = connect(path)
        for at in range(0, 1_500, 500):
            rows = [audit(f"{number}-{n}", received_at=time.time()) for n in range(at, at + 500)]
            write(connection, Batch(rows, [attempt(row.request_id, at=time.time()) for row in rows]))
        connection.close()
    running = [_ship(path, here) for path in journals]

    def copied(least: int) -> bool:
        return len(_ids(here)) >= least

    try:
        wait_until(lambda: copied(500), 30, "the first rows")
        os.kill(running[0].pid, signal.SIGKILL)
        running.append(_ship(journals[0], here))
        wait_until(lambda: copied(3_000), 60, "all rows")
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert len(shipped(here)) == 3_000
    engine = to_write(here)
    with engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(ATTEMPT)).scalar_one() == 3_000
    engine.dispose()


def _ids(audit: Audit) -> list[str]:
    engine = to_write(audit)
    try:
        with engine.connect() as connection:
            return list(connection.execute(select(AUDIT.c.request_id)).scalars())
    except Exception:
        return []
    finally:
        engine.dispose()


def test_many_that_migrate_at_once(postgres: Postgres) -> None:
    here = Audit(url=postgres.database())
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda _: Target(here).write([], []), range(8))) == [0] * 8
    engine = to_write(here)
    with engine.begin() as connection:
        assert migrate(connection) == len(MIGRATIONS)
    engine.dispose()
