"""A database that was restored from a backup is given again what it lacks, and nothing twice."""

import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from extproc import runtime
from extproc.audit.shipper import Shipper
from extproc.paths import Paths
from extproc.settings.audit import Audit
from extproc.settle.journal import Batch, Connection, connect, write
from extproc.settle.marks import advance, mark, put_back
from tests.audit.postgres import Postgres
from tests.audit.test_shipper import settings, shipped
from tests.envoy.harness import GATEWAY
from tests.settle.builders import STARTED_S, attempt, audit


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.of(tmp_path)


@pytest.fixture
def journal(paths: Paths) -> Iterator[Connection]:
    connection = connect(paths.journal)
    yield connection
    connection.close()


def gateway_refill(paths: Paths) -> subprocess.CompletedProcess[str]:
    command = [GATEWAY, "refill", "--data-dir", paths.data_dir]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def server(postgres: Postgres, *statements: str) -> None:
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]  # not a literal


def test_a_restored_database_is_refilled_from_the_journal(
    paths: Paths, journal: Connection, audit_settings: Audit, postgres: Postgres
) -> None:
    given = settings(audit_settings)
    runtime.write(given, paths.runtime)
    name = audit_settings.url.rpartition("/")[2]

    def ship() -> int:
        work = Shipper(partial(connect, paths.journal), lambda: given, lambda: STARTED_S)
        copied = 0
        while found := work.step():
            copied += found
        assert work._target is not None
        work._target.close()
        return copied

    write(journal, Batch([audit("a"), audit("b")], [attempt("a")]))
    assert ship() == 2
    server(postgres, f"CREATE DATABASE {name}_backup TEMPLATE {name}")
    write(journal, Batch([audit("c")], [attempt("c")]))
    assert ship() == 1
    server(postgres, f"DROP DATABASE {name} WITH (FORCE)", f"CREATE DATABASE {name} TEMPLATE {name}_backup")
    assert set(shipped(audit_settings)) == {"a", "b"}
    assert ship() == 0, "it knows nothing of the restore"
    done = gateway_refill(paths)
    assert (done.returncode, done.stdout) == (
        0,
        f"3 requests of the journal will be copied to {audit_settings.place}\n",
    )
    ship()
    assert set(shipped(audit_settings)) == {"a", "b", "c"}


def test_a_batch_that_is_under_way_does_not_undo_it(journal: Connection) -> None:
    advance(journal, {"audit:x": 7})
    put_back(journal, ["audit:x"])
    advance(journal, {"audit:x": 9}, since={"audit:x": 7})
    assert mark(journal, "audit:x") == 0
    advance(journal, {"audit:x": 9}, since={"audit:x": 0})
    assert mark(journal, "audit:x") == 9


def test_where_rows_are_in_the_journal_alone_there_is_nothing_to_refill(paths: Paths) -> None:
    nothing = gateway_refill(paths)
    assert (nothing.returncode, "no gateway has run" in nothing.stderr) == (1, True)
    runtime.write(settings(Audit()), paths.runtime)
    alone = gateway_refill(paths)
    assert (alone.returncode, alone.stderr) == (
        1,
        "error: audit.url names no database: rows are in the journal alone\n",
    )
