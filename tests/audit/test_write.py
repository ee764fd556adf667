"""Rows in PostgreSQL: each request once, sums that agree, whoever tells of it and however often."""

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, func, inspect, select

from extproc.audit.migrations import MIGRATIONS, migrate
from extproc.audit.tables import ATTEMPT, AUDIT, METADATA, ROUTED, SUMS, attempt_row, audit_row
from extproc.audit.write import trim, write
from extproc.settle.rows import UNRECONCILED, AttemptRow, AuditRow
from tests.settle.builders import STARTED_S, attempt, audit

DAY_S = 86_400.0


def written(database: Engine, *rows: AuditRow | AttemptRow) -> int:
    with database.begin() as connection:
        return write(
            connection,
            [row for row in rows if isinstance(row, AuditRow)],
            [row for row in rows if isinstance(row, AttemptRow)],
            "week",
        )


def rows(database: Engine) -> list[AuditRow]:
    with database.connect() as connection:
        return [audit_row(row) for row in connection.execute(select(AUDIT).order_by(AUDIT.c.request_id))]


def total(database: Engine, column: str) -> int:
    with database.connect() as connection:
        return int(connection.execute(select(func.coalesce(func.sum(SUMS.c[column]), 0))).scalar_one())


def agrees(database: Engine) -> None:
    """Sums say what the rows say."""
    found = rows(database)
    assert total(database, "requests") == len(found)
    assert total(database, "input_tokens") == sum(row.input_tokens for row in found)
    assert total(database, "cost_nano_usd") == sum(row.cost_nano_usd or 0 for row in found)
    with database.connect() as connection:
        statement = select(SUMS.c.status, func.sum(SUMS.c.requests)).group_by(SUMS.c.status)
        by_status = {status: count for status, count in connection.execute(statement) if count}
    assert by_status == Counter(row.status for row in found)


def test_the_tables_are_those_that_queries_are_made_of(database: Engine) -> None:
    found = inspect(database)
    for table in METADATA.tables.values():
        columns = {column["name"]: column for column in found.get_columns(table.name)}
        assert set(columns) == set(table.c.keys())
        keys = found.get_pk_constraint(table.name)["constrained_columns"]
        assert set(keys) == {column.name for column in table.primary_key}
        for column in table.c:
            there = columns[column.name]["type"].compile(database.dialect)
            assert there == column.type.compile(database.dialect), column


def test_a_row_comes_back_as_it_was(database: Engine) -> None:
    told = [
        audit("a", native=True, cost_nano_usd=None, http_status=None, first_byte_ms=None, model_used=None),
        audit("b", received_at=STARTED_S + 0.123456, stream=False, steps_us='{"auth":12}', saved_nano_usd=None),
    ]
    assert written(database, *told, attempt("a", retry_after_s=1.5)) == 2
    assert rows(database) == told
    with database.connect() as connection:
        assert [attempt_row(row) for row in connection.execute(select(ATTEMPT))] == [attempt("a", retry_after_s=1.5)]


def test_what_is_told_again_is_there_once(database: Engine) -> None:
    batch = [audit("a"), audit("b", received_at=STARTED_S + 40 * DAY_S), attempt("a"), attempt("b")]
    assert written(database, *batch) == 2
    assert written(database, *batch, audit("c")) == 1
    assert [row.request_id for row in rows(database)] == ["a", "b", "c"]
    agrees(database)
    with database.connect() as connection:
        assert connection.execute(select(func.count()).select_from(ATTEMPT)).scalar_one() == 2


@pytest.mark.parametrize("first", ["hold", "request"])
def test_what_came_of_a_request_stands_and_not_its_expired_hold(database: Engine, first: str) -> None:
    hold = audit("a", status="failed", error_code=UNRECONCILED, received_at=STARTED_S - 3, input_tokens=999)
    request = audit("a", input_tokens=100)
    for row in (hold, request) if first == "hold" else (request, hold):
        written(database, row)
    assert rows(database) == [request]
    agrees(database)


def test_a_text_without_place_in_postgresql_is_kept_but_for_its_nul(database: Engine) -> None:
    written(database, audit("a", model_requested="x\0y", status="refused"))
    assert [row.model_requested for row in rows(database)] == ["x\ufffdy"]


def test_replicas_at_once_tell_of_the_same_requests(database: Engine) -> None:
    """Half of them an expired hold here, and what came of it there; each told twice, in any order."""
    requests = [audit(f"r{n}", received_at=STARTED_S + n) for n in range(60)]
    holds = [audit(f"r{n}", error_code=UNRECONCILED, status="failed", input_tokens=7) for n in range(0, 60, 2)]
    start = threading.Barrier(4)

    def replica(seed: int) -> None:
        told = [*requests, *holds]
        random.Random(seed).shuffle(told)
        start.wait()
        for at in range(0, len(told), 10):
            batch = {row.request_id: row for row in told[at : at + 10]}
            written(database, *batch.values(), *(attempt(row) for row in batch))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(replica, range(4)))
    # A batch in which a hold came after its request had only the hold; the request's turn is now.
    written(database, *requests)
    assert rows(database) == sorted(requests, key=lambda row: row.request_id)
    agrees(database)


class TestRetention:
    def test_partitions_go_whole(self, database: Engine) -> None:
        old = STARTED_S - 100 * DAY_S
        written(database, audit("old", received_at=old), audit("young"), attempt("old", at=old), attempt("young"))
        with database.begin() as connection:
            dropped = trim(connection, STARTED_S, 90 * DAY_S)
        assert [name.split("_")[0] for name in dropped] == ["audit", "attempt"]
        assert [row.request_id for row in rows(database)] == ["young"]
        with database.begin() as connection:
            assert trim(connection, STARTED_S, 90 * DAY_S) == []

    def test_sums_go_with_the_months_usage(self, database: Engine) -> None:
        written(
            database, audit("a", received_at=STARTED_S - 61 * DAY_S), audit("b", received_at=STARTED_S - 70 * DAY_S)
        )
        with database.begin() as connection:
            trim(connection, STARTED_S, DAY_S)
        assert total(database, "requests") == 1
        assert rows(database) == []

    def test_a_row_that_comes_too_late_is_still_taken(self, database: Engine) -> None:
        with database.begin() as connection:
            trim(connection, STARTED_S, DAY_S)
        assert written(database, audit("a", received_at=STARTED_S - 300 * DAY_S)) == 1


class TestMigrations:
    def test_a_second_time_changes_nothing(self, database: Engine) -> None:
        with database.begin() as connection:
            assert migrate(connection) == len(MIGRATIONS)
        written(database, audit("a"))

    def test_a_newer_schema_is_left_alone_and_used(self, database: Engine) -> None:
        more = (*MIGRATIONS, ("ALTER TABLE audit ADD COLUMN invented bigint NOT NULL DEFAULT 0",))
        with database.begin() as connection:
            assert migrate(connection, more) == len(MIGRATIONS) + 1
        with database.begin() as connection:
            assert migrate(connection) == len(MIGRATIONS) + 1
        written(database, audit("a"))
        assert [row.request_id for row in rows(database)] == ["a"]

    def test_a_failed_one_leaves_nothing(self, database: Engine) -> None:
        more = (*MIGRATIONS, ("CREATE TABLE half (x bigint)", "CREATE TABLE audit (x bigint)"))
        with pytest.raises(Exception, match="already exists"), database.begin() as connection:
            migrate(connection, more)
        assert "half" not in inspect(database).get_table_names()
        assert "routed" in ROUTED.name
