"""From the journal to a collector, over real HTTP; with a collector that is slow, dead or refusing."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from extproc.settings import Settings, parse
from extproc.settle.dues import Charged
from extproc.settle.journal import NOT_NOW, Batch, Connection, connect, write
from extproc.settle.marks import mark
from extproc.settle.outbox import Outbox
from extproc.telemetry import tracing
from extproc.telemetry.content import Content
from extproc.telemetry.otlp import SpanSender
from extproc.telemetry.tracing import Tracing
from tests.envoy.harness import wait_until
from tests.settle.builders import STARTED_S, attempt, audit
from tests.telemetry.collector import Collector

NOW_S = STARTED_S + 5.0


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.stop()


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    connection = connect(tmp_path / "journal.db")
    yield connection
    connection.close()


def settings(endpoint: str) -> Settings:
    return parse(
        f"""
providers: {{openai: {{format: openai, base_url: "http://127.0.0.1:9"}}}}
models: [{{name: gpt, provider: openai}}]
teams: [{{id: team-search, keys: [sk-search]}}]
telemetry: {{otlp_endpoint: "{endpoint}", otlp_headers: {{x-api-key: secret}}, service_name: gw-test}}
""",
        {},
    )


class Now:
    def __init__(self) -> None:
        self.s = NOW_S

    def __call__(self) -> float:
        return self.s


def tracing_of(tmp_path: Path, given: Settings, now: Now | None = None) -> Tracing:
    return Tracing(partial(connect, tmp_path / "journal.db"), SpanSender, lambda: given, now or Now())


def charge(tmp_path: Path, *ids: int) -> None:
    Outbox(tmp_path / "journal.db").charged(Charged(ids, STARTED_S + 1.0))


def test_each_request_is_told_once(tmp_path: Path, connection: Connection, collector: Collector) -> None:
    write(connection, Batch([audit("r1"), audit("r2")], [attempt("r1"), attempt("r2")]))
    charge(tmp_path, 1, 2)
    work = tracing_of(tmp_path, settings(collector.url))
    assert work.step(connection) == 2
    assert work.step(connection) == 0
    assert sorted(span.name for span in collector.spans) == sorted(["chat auto", "decide", "chat openai", "settle"] * 2)
    assert collector.resource["service.name"] == "gw-test"
    assert collector.headers["x-api-key"] == "secret"


def test_another_process_goes_on_where_this_one_was(
    tmp_path: Path, connection: Connection, collector: Collector
) -> None:
    write(connection, Batch([audit("r1")], [attempt("r1")]))
    charge(tmp_path, 1)
    assert tracing_of(tmp_path, settings(collector.url)).step(connection) == 1
    assert tracing_of(tmp_path, settings(collector.url)).step(connection) == 0


def test_what_cannot_be_marked_as_told_is_not_told_again(
    tmp_path: Path, connection: Connection, collector: Collector
) -> None:
    """The journal's disk is full: it can be read, and not be written."""
    write(connection, Batch([audit("r1")], [attempt("r1")]))
    charge(tmp_path, 1)
    work = tracing_of(tmp_path, settings(collector.url))
    connection.execute("PRAGMA query_only = ON")
    for _ in range(3):
        with pytest.raises(NOT_NOW):
            work.step(connection)
    connection.execute("PRAGMA query_only = OFF")
    write(connection, Batch([audit("r2")], [attempt("r2")]))
    charge(tmp_path, 2)
    assert work.step(connection) == 1
    assert collector.traces == 2
    assert tracing_of(tmp_path, settings(collector.url)).step(connection) == 0


def test_attempts_are_waited_for_but_not_forever(tmp_path: Path, connection: Connection, collector: Collector) -> None:
    write(connection, Batch([audit("r1", attempts=2), audit("r2", attempts=2)], [attempt("r1"), attempt("r2")]))
    charge(tmp_path, 1, 2)
    now = Now()
    work = tracing_of(tmp_path, settings(collector.url), now)
    assert work.step(connection) == 0
    write(connection, Batch([], [attempt("r1", started_at=STARTED_S + 0.5)]))
    assert work.step(connection) == 1
    now.s = STARTED_S + 60.0
    assert work.step(connection) == 1
    assert sum(span.name == "chat openai" for span in collector.spans) == 3


def test_a_row_that_is_settled_late_is_told_all_the_same(
    tmp_path: Path, connection: Connection, collector: Collector
) -> None:
    write(connection, Batch([audit("r1"), audit("r2"), audit("r3")], [attempt("r1"), attempt("r2"), attempt("r3")]))
    work = tracing_of(tmp_path, settings(collector.url))
    charge(tmp_path, 1, 3)
    assert work.step(connection) == 1
    charge(tmp_path, 2)
    assert work.step(connection) == 2
    assert collector.traces == 3


def test_an_unsettled_request_is_waited_for_but_not_forever(
    tmp_path: Path, connection: Connection, collector: Collector
) -> None:
    write(connection, Batch([audit("r1")], [attempt("r1")]))
    now = Now()
    work = tracing_of(tmp_path, settings(collector.url), now)
    assert work.step(connection) == 0
    now.s = STARTED_S + 60.0
    assert work.step(connection) == 1
    assert "settle" not in {span.name for span in collector.spans}


@pytest.mark.parametrize("status", [400, 401])
def test_what_is_refused_waits(tmp_path: Path, connection: Connection, collector: Collector, status: int) -> None:
    write(connection, Batch([audit("r1")], [attempt("r1")]))
    charge(tmp_path, 1)
    work = tracing_of(tmp_path, settings(collector.url))
    collector.status = status
    assert work.step(connection) is None
    collector.status = 200
    assert work.step(connection) == 1
    failures = connection.execute("SELECT value FROM counter WHERE name = ?", (tracing.FAILURES,)).fetchone()
    assert failures == (1,)
    assert len({span.span_id for span in collector.spans}) == len(collector.spans)


def test_however_many_wait_a_batch_is_all_that_is_taken_into_memory(
    tmp_path: Path, connection: Connection, collector: Collector
) -> None:
    many = [f"r{number}" for number in range(1000)]
    write(connection, Batch([audit(each, attempts=0) for each in many]))
    charge(tmp_path, *range(1, 1001))
    work = tracing_of(tmp_path, settings(collector.url))
    collector.status = 400
    assert [work.step(connection) for _ in range(3)] == [None] * 3
    collector.status = 200
    assert [work.step(connection) for _ in range(6)] == [200] * 5 + [0]
    assert collector.traces == 1000


def test_what_waited_too_long_is_passed_over_and_counted(
    tmp_path: Path, connection: Connection, collector: Collector
) -> None:
    write(connection, Batch([audit("r1"), audit("r2", completed_at=NOW_S + 10_000)], [attempt("r1"), attempt("r2")]))
    charge(tmp_path, 1, 2)
    now = Now()
    now.s = NOW_S + 10_002
    assert tracing_of(tmp_path, settings(collector.url), now).step(connection) == 2
    assert {span.trace_id for span in collector.spans if span.name == "chat auto"} == {
        span.trace_id for span in collector.spans
    }
    assert connection.execute("SELECT value FROM counter WHERE name = 'dropped_traces'").fetchone() == (1,)


def test_without_an_endpoint_nothing_is_done(tmp_path: Path, connection: Connection) -> None:
    given = settings("http://127.0.0.1:9")
    given = given.model_copy(update={"telemetry": given.telemetry.model_copy(update={"otlp_endpoint": None})})
    write(connection, Batch([audit("r1")], [attempt("r1")]))
    charge(tmp_path, 1)
    assert tracing_of(tmp_path, given).step(connection) == 0
    assert mark(connection, tracing.CURSOR) == 0


def test_a_dead_collector_does_not_hold_up_the_end(tmp_path: Path, connection: Connection) -> None:
    write(connection, Batch([audit("r1")], [attempt("r1")]))
    charge(tmp_path, 1)
    work = tracing_of(tmp_path, settings("http://127.0.0.1:9"))
    work.start()
    time.sleep(0.8)
    work.close(0.2)
    assert mark(connection, tracing.CURSOR) == 0


def test_the_thread_sends_by_itself(tmp_path: Path, connection: Connection, collector: Collector) -> None:
    write(connection, Batch([audit("r1")], [attempt("r1")]))
    charge(tmp_path, 1)
    work = tracing_of(tmp_path, settings(collector.url))
    work.start()
    wait_until(lambda: bool(collector.spans), 20, "spans")
    work.close(5)
    assert mark(connection, tracing.CURSOR) == 1


def test_a_collector_named_later_is_told_at_once(
    tmp_path: Path, connection: Connection, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "_NOBODY_S", 1_000.0)
    named = settings(collector.url)
    given = [named.model_copy(update={"telemetry": named.telemetry.model_copy(update={"otlp_endpoint": None})})]
    write(connection, Batch([audit("r1")], [attempt("r1")], contents=[Content("r1", "what was said", "")]))
    charge(tmp_path, 1)
    work = Tracing(partial(connect, tmp_path / "journal.db"), SpanSender, lambda: given[0], Now())
    work.start()
    content = "SELECT count(*) FROM content"
    wait_until(lambda: not connection.execute(content).fetchone()[0], 20, "its first look, after which it rests")
    given[0] = named
    work.look()
    wait_until(lambda: bool(collector.spans), 20, "spans")
    work.close(5)
