"""The journal: one row a request, sums that agree with the rows, a schema that moves forward."""

import sqlite3
from pathlib import Path

import pytest

from extproc.settle.journal import Batch, JournalTooNewError, connect, latest, write
from extproc.settle.marks import advance
from extproc.settle.migrations import MIGRATIONS
from extproc.settle.outbox import Outbox
from extproc.settle.retention import Retention, delete_before
from extproc.settle.rows import UNRECONCILED, AttemptRow, AuditRow
from extproc.settle.sums import BUCKET_S, EVER
from tests.settle.builders import STARTED_S, attempt, audit

DAY_S = 86_400.0


@pytest.fixture
def journal(tmp_path: Path) -> sqlite3.Connection:
    return connect(tmp_path / "journal.db")


def count(connection: sqlite3.Connection, table: str) -> int:
    found: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return found


def sums(connection: sqlite3.Connection, bucket_s: int = EVER) -> dict[str, tuple[int, int, int]]:
    rows = connection.execute(
        "SELECT status, requests, input_tokens + output_tokens, cost_nano_usd FROM sums WHERE bucket_s = ?", (bucket_s,)
    )
    return {status: tuple(rest) for status, *rest in rows}


def test_a_row_comes_back_as_it_was(journal: sqlite3.Connection) -> None:
    rows = [
        audit("a", native=True, cost_nano_usd=None, http_status=None, first_byte_ms=None, model_used=None),
        audit("b", status="refused", error_code="model_not_found"),
    ]
    write(journal, Batch(rows))
    assert latest(journal, 10) == rows
    assert latest(journal, 1) == rows[1:]


@pytest.mark.parametrize(("table", "kind"), [("audit", AuditRow), ("attempt", AttemptRow)])
def test_every_field_has_its_column(
    journal: sqlite3.Connection, table: str, kind: type[AuditRow] | type[AttemptRow]
) -> None:
    columns = {row[1] for row in journal.execute(f"PRAGMA table_info({table})")}
    ours = {"id", "charged", "settled_at"} if table == "audit" else {"id"}
    assert columns == ours | set(kind.__struct_fields__)


def test_a_request_has_one_row_however_often_it_is_told(journal: sqlite3.Connection) -> None:
    write(journal, Batch([audit("a"), audit("a", status="failed")], [attempt("a"), attempt("a")]))
    write(journal, Batch([audit("a", output_tokens=9)], [attempt("a"), attempt("a", started_at=STARTED_S + 0.5)]))
    assert [row.status for row in latest(journal, 10)] == ["success"]
    assert count(journal, "attempt") == 2
    assert sums(journal) == {"success": (1, 150, 200_000)}


def test_attempts_are_counted_once_by_what_came_of_them(journal: sqlite3.Connection) -> None:
    write(journal, Batch([], [attempt("a"), attempt("a"), attempt("b", verdict="error", status=401)]))
    write(journal, Batch([], [attempt("a"), attempt("c", verdict="error", status=503), attempt("d")]))
    found = {tuple(row) for row in journal.execute("SELECT * FROM attempted")}
    assert found == {
        ("openai", "gpt", "ok", 2),
        ("openai", "gpt", "credential_refused", 1),
        ("openai", "gpt", "error", 1),
    }


def test_sums_agree_with_the_rows(journal: sqlite3.Connection) -> None:
    later = STARTED_S + 2 * BUCKET_S
    write(journal, Batch([audit("a"), audit("b"), audit("c", status="failed", cost_nano_usd=None)]))
    write(journal, Batch([audit("d", received_at=later)]))
    assert sums(journal) == {"success": (3, 450, 600_000), "failed": (1, 150, 0)}
    assert sums(journal, int(later) // BUCKET_S * BUCKET_S) == {"success": (1, 150, 200_000)}
    assert journal.execute("SELECT sum(unpriced) FROM sums WHERE bucket_s = ?", (EVER,)).fetchone() == (1,)


def test_a_clients_made_up_model_names_make_no_sums(journal: sqlite3.Connection) -> None:
    rows = [audit(f"r{n}", model_requested=f"x{n}", model_routed="", model_used=None) for n in range(20)]
    write(journal, Batch(rows))
    assert journal.execute("SELECT model, requests FROM sums WHERE bucket_s = ?", (EVER,)).fetchall() == [("", 20)]


def test_counters_add_up(journal: sqlite3.Connection) -> None:
    write(journal, Batch(counts={"x": 2}))
    write(journal, Batch(counts={"x": 3, "y": 1}))
    assert dict(journal.execute("SELECT name, value FROM counter").fetchall()) == {"x": 5, "y": 1}


def test_a_batch_is_written_whole_or_not_at_all(journal: sqlite3.Connection) -> None:
    with pytest.raises(OverflowError):
        write(journal, Batch([audit("a"), audit("b", input_tokens=2**70)], counts={"x": 1}))
    assert count(journal, "audit") == count(journal, "counter") == count(journal, "sums") == 0
    write(journal, Batch([audit("a")]))
    assert count(journal, "audit") == 1


def test_old_rows_go_in_small_steps_and_totals_stay(journal: sqlite3.Connection) -> None:
    old = [audit(f"o{n}", received_at=STARTED_S - 100 * DAY_S) for n in range(25)]
    write(journal, Batch([*old, audit("new")], [attempt("o1", at=STARTED_S - 100 * DAY_S), attempt("new")]))
    kept = Retention(90 * DAY_S)
    assert delete_before(journal, STARTED_S, kept, 10) == 11
    assert count(journal, "audit") == 16
    while delete_before(journal, STARTED_S, kept, 10):
        pass
    assert [row.request_id for row in latest(journal, 100)] == ["new"]
    assert journal.execute("SELECT request_id FROM attempt").fetchall() == [("new",)]
    assert sums(journal)["success"][0] == 26
    assert journal.execute("SELECT count(*) FROM sums WHERE bucket_s > 0").fetchone() == (1,)


def test_a_short_retention_leaves_the_months_usage(journal: sqlite3.Connection) -> None:
    write(journal, Batch([audit("a", received_at=STARTED_S - 30 * DAY_S), audit("b")]))
    delete_before(journal, STARTED_S, Retention(DAY_S), 10)
    assert [row.request_id for row in latest(journal, 100)] == ["b"]
    assert journal.execute("SELECT count(*) FROM sums WHERE bucket_s > 0").fetchone() == (2,)


def test_what_is_not_copied_yet_stays(journal: sqlite3.Connection) -> None:
    write(
        journal, Batch([audit(f"o{n}", received_at=STARTED_S - 100 * DAY_S) for n in range(5)], [attempt("o1", at=1.0)])
    )
    write(journal, Batch([audit("new")], [attempt("new")]))
    kept = Retention(DAY_S, {"audit": "audit:1", "attempt": "attempt:1"})
    assert delete_before(journal, STARTED_S, kept, 10) == 0
    advance(journal, {"audit:1": 3})
    assert delete_before(journal, STARTED_S, kept, 10) == 3
    assert [row.request_id for row in latest(journal, 10)] == ["o3", "o4", "new"]
    advance(journal, {"audit:1": 6, "attempt:1": 2})
    assert delete_before(journal, STARTED_S, kept, 10) == 3


def test_an_id_is_never_given_out_again(journal: sqlite3.Connection) -> None:
    """Readers go on after the last id they have seen."""
    write(journal, Batch([audit("a"), audit("b", error_code=UNRECONCILED)], [attempt("a")]))
    write(journal, Batch([audit("b"), audit("c")]))
    assert journal.execute("SELECT id, request_id FROM audit ORDER BY id").fetchall() == [(1, "a"), (3, "c"), (4, "b")]
    delete_before(journal, STARTED_S + 10 * DAY_S, Retention(DAY_S), 10)
    write(journal, Batch([audit("d")], [attempt("d")]))
    assert journal.execute("SELECT id, request_id FROM audit ORDER BY id").fetchall() == [(4, "b"), (5, "d")]
    assert journal.execute("SELECT id FROM attempt ORDER BY id").fetchall() == [(1,), (2,)]


def test_what_is_committed_survives_loss_of_power(journal: sqlite3.Connection) -> None:
    """FULL: each commit is synced; NORMAL would sync only at checkpoints."""
    assert journal.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert journal.execute("PRAGMA synchronous").fetchone() == (2,)


class TestMigrations:
    MORE = (*MIGRATIONS, "ALTER TABLE audit ADD COLUMN invented INTEGER NOT NULL DEFAULT 0")

    def test_an_older_file_is_brought_up_to_date_with_its_rows(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.db"
        old = connect(path)
        write(old, Batch([audit("a")]))
        old.close()
        new = connect(path, self.MORE)
        assert new.execute("SELECT request_id, invented FROM audit").fetchall() == [("a", 0)]
        assert new.execute("PRAGMA user_version").fetchone() == (len(self.MORE),)
        new.close()
        assert connect(path, self.MORE).execute("SELECT count(*) FROM audit").fetchone() == (1,)

    def test_a_step_that_fails_leaves_the_file_as_it_was(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.db"
        connect(path).close()
        broken = (*self.MORE, "CREATE TABLE half (x); ALTER TABLE nowhere ADD COLUMN y")
        with pytest.raises(sqlite3.OperationalError):
            connect(path, broken)
        after = connect(path, self.MORE)
        assert after.execute("PRAGMA user_version").fetchone() == (len(self.MORE),)
        assert after.execute("SELECT name FROM sqlite_master WHERE name = 'half'").fetchall() == []

    def test_a_file_of_a_newer_version_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "journal.db"
        connect(path, self.MORE).close()
        with pytest.raises(JournalTooNewError, match=f"schema {len(self.MORE)}"):
            connect(path)


def test_what_is_left_of_a_hold_is_never_to_be_charged_but_the_row_that_takes_its_place_is(
    journal: sqlite3.Connection, tmp_path: Path
) -> None:
    outbox = Outbox(tmp_path / "journal.db")
    write(journal, Batch([audit("a", error_code=UNRECONCILED)]))
    assert not outbox.uncharged(10), "its lease's end charged it, whatever dies now"
    write(journal, Batch([audit("a")]))
    assert [charge.request_id for charge in outbox.uncharged(10)] == ["a"]
    outbox.unreconciled([audit("a", error_code=UNRECONCILED)])
    assert [charge.request_id for charge in outbox.uncharged(10)] == ["a"], "it came meanwhile, and stays"


def test_the_requests_own_row_takes_the_place_once(journal: sqlite3.Connection) -> None:
    write(journal, Batch([audit("a", error_code=UNRECONCILED), audit("b")]))
    own = audit("a", input_tokens=7)
    charges = write(journal, Batch([own, audit("b"), own]))  # told by the service and by the log at once
    assert [charge.request_id for charge in charges] == ["a"]
    found = journal.execute("SELECT request_id, input_tokens FROM audit WHERE request_id = 'a'").fetchall()
    assert found == [("a", 7)]
    assert journal.execute("SELECT sum(requests) FROM sums WHERE bucket_s = 0").fetchone() == (2,)
