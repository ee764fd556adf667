"""Audit rows, pages and sums read from SQLite and from PostgreSQL: the same queries, the same answers."""

import logging
from typing import Any

import pytest

from control import requests, usage
from control.auth import Caller
from control.requests import Filter
from control.store import Store
from extproc.errors import AuditUnavailable, InvalidRequest, NotFound
from extproc.settings.audit import Audit
from extproc.settle.journal import Batch
from tests.audit.postgres import PASSWORD, Postgres
from tests.audit.stores import Kept
from tests.settle.builders import STARTED_S, attempt, audit

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
ADMIN = Caller(None)


def ids(store: Kept, **wanted: Any) -> list[str]:
    return [row["request_id"] for row in requests.select_page(store.connection, Filter(**wanted))["requests"]]


def test_filters(store: Kept) -> None:
    rows = [
        audit("a", received_at=STARTED_S - 300),
        audit("b", received_at=STARTED_S - 200, status="failed", provider_used=None),
        audit("c", received_at=STARTED_S - 100.5, model_used="claude"),
        audit("d", received_at=STARTED_S - 40 * 86_400, team_id="other", model_requested="claude"),
    ]
    store.write(Batch(rows))
    assert ids(store) == ["c", "b", "a", "d"]
    assert ids(store, limit=2) == ["c", "b"]
    assert ids(store, status="failed") == ["b"]
    assert ids(store, model="claude") == ["c", "d"]
    assert ids(store, provider="openai") == ["c", "a", "d"]
    assert ids(store, team_id="other") == ["d"]
    assert ids(store, since_s=STARTED_S - 200) == ["c", "b"]
    assert ids(store, until_s=STARTED_S - 200) == ["a", "d"]
    assert ids(store, since_s=STARTED_S - 300, until_s=STARTED_S - 100, team_id="other") == []


def test_pages_neither_repeat_nor_skip(store: Kept) -> None:
    """Many rows share a moment, and new ones come in while pages are turned."""
    store.write(Batch([audit(f"r{n:03}", received_at=STARTED_S + n // 10 + 0.1) for n in range(95)]))
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = requests.select_page(store.connection, requests.read_filter({"limit": "7", **cursor}, ADMIN))
        seen += [row["request_id"] for row in page["requests"]]
        store.write(Batch([audit(f"new{len(seen)}", received_at=STARTED_S + 1_000 + len(seen))]))
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == [f"r{n:03}" for n in reversed(range(95))]


def test_one_request_with_its_attempts(store: Kept) -> None:
    tries = [attempt("a", started_at=STARTED_S + 1, provider="anthropic"), attempt("a", verdict="error")]
    store.write(Batch([audit("a"), audit("b")], [*tries, attempt("b")]))
    found = requests.select_one(store.connection, "a", None)
    assert [each.provider for each in found["attempt_log"]] == ["openai", "anthropic"]
    assert found == requests.select_page(store.connection, Filter(limit=2))["requests"][1]
    assert requests.select_one(store.connection, "a", "team-search") == found
    for request_id, team_id in (("a", "other"), ("c", None), ("a\0", None)):
        with pytest.raises(NotFound):
            requests.select_one(store.connection, request_id, team_id)


def test_usage_by_the_sums(store: Kept) -> None:
    rows = [audit("a"), audit("b", model_used="claude", output_tokens=10), audit("c", team_id="other")]
    store.write(Batch([*rows, audit("d", received_at=STARTED_S - 3 * 86_400)]))
    used = usage.used(store.connection, "team-search", STARTED_S - 86_400)
    assert (used.used_tokens, used.used_nano_usd) == (100 + 50 + 100 + 10, 400_000)
    assert [(each.model, each.tokens) for each in usage.used_models(store.connection, "team-search", 0.0)] == [
        ("gpt", 300),
        ("claude", 110),
    ]
    assert usage.used(store.connection, "nobody", 0.0).used_tokens == 0


@pytest.mark.parametrize("name", ["model", "provider", "team_id"])
def test_a_nul_is_in_no_name(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        requests.read_filter({name: "a\0"}, ADMIN)
    assert caught.value.param == name


async def test_a_query_has_its_limit_of_time(store: Kept) -> None:
    bounded = Store(store.journal, lambda: store.audit, limit_s=0.3)
    with pytest.raises(AuditUnavailable, match="too long"):
        await bounded.read(lambda connection: connection.exec_driver_sql(ENDLESS).fetchall())
    assert await bounded.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar()) == 1
    bounded.close()


async def test_reading_cannot_write(store: Kept) -> None:
    reading = Store(store.journal, lambda: store.audit)
    with pytest.raises(AuditUnavailable, match="cannot be read"):
        await reading.read(lambda connection: connection.exec_driver_sql("DELETE FROM audit"))
    reading.close()


async def test_a_database_that_is_away_and_back(postgres: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    audit_settings = Audit(url=postgres.database())
    reading = Store(postgres.folder / "no-journal", lambda: audit_settings)

    def one(connection: Any) -> Any:
        return connection.exec_driver_sql("SELECT 1").scalar()

    assert await reading.read(one) == 1
    postgres.stop()
    try:
        with pytest.raises(AuditUnavailable) as caught:
            await reading.read(one)
    finally:
        postgres.start()
    assert await reading.read(one) == 1
    audit_settings = Audit(url=audit_settings.url.replace(PASSWORD, "wr0ng"))
    with caplog.at_level(logging.WARNING), pytest.raises(AuditUnavailable):
        await reading.read(one)
    told = str(caught.value) + "".join(str(vars(record)) for record in caplog.records)
    assert "password authentication failed" in told
    assert not any(secret in told for secret in (PASSWORD, "wr0ng"))
    reading.close()
