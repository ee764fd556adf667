"""What a failover's rows say: which attempts count, and from when."""

from pathlib import Path

import pytest

from bench.readings import Trial, read
from extproc.settle.journal import Batch, connect, write
from extproc.settle.rows import AttemptRow, AuditRow
from tests.settle.builders import attempt, audit

BROKEN_S, HEALED_S, CLOSED_S = 1000.0, 1010.0, 1014.0
OPEN = (1001.5, 1004.5)


def rows(number: int, began_s: float, *, failed: bool, status: int = 200) -> tuple[AuditRow, list[AttemptRow]]:
    """A request whose first attempt went to the provider; if it failed, the next one did not."""
    name = f"request-{number}"
    first = attempt(
        request_id=name, provider="sick", started_at=began_s, at=began_s + 0.1, verdict="error" if failed else "ok"
    )
    second = attempt(request_id=name, provider="well", started_at=began_s + 0.1, at=began_s + 0.2, verdict="ok")
    request = audit(
        request_id=name,
        model_requested="model",
        received_at=began_s,
        completed_at=began_s + 0.2,
        http_status=status,
        latency_ms=200.0 + number,
    )
    return request, [first, second] if failed else [first]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    told = [
        rows(0, 999.0, failed=True),  # before it was broken
        rows(1, 1000.1, failed=False),  # on the way
        rows(2, 1000.5, failed=True),
        rows(3, 1001.0, failed=True, status=502),
        rows(4, 1001.6, failed=True),  # the worker had not looked yet
        rows(5, 1005.0, failed=True, status=502),  # a probe
        rows(6, 1012.0, failed=False),
    ]
    connection = connect(path := tmp_path / "journal.db")
    write(connection, Batch([request for request, _ in told], [each for _, attempts in told for each in attempts]))
    connection.close()
    return path


def trial(**changes: object) -> Trial:
    given = {"provider": "sick", "model": "model", "broken_s": BROKEN_S, "healed_s": HEALED_S, "closed_s": CLOSED_S}
    return Trial(**{**given, "waits": [OPEN], **changes})  # type: ignore[arg-type]


def test_it_was_routed_around_when_the_last_request_but_the_probes_went_there(journal: Path) -> None:
    found = read(journal, trial())
    assert found.from_failure_s == pytest.approx(1001.6 - 1000.6)
    assert found.from_attempt_s == pytest.approx(1001.6 - 1000.5)
    assert (found.failed_over, found.probes, found.asked) == (3, 1, 6)


def test_errors_are_told_apart_by_the_circuit(journal: Path) -> None:
    found = read(journal, trial())
    assert (found.errors_before, found.errors_after) == (1, 1)
    assert (found.slowest_s, found.back_s) == (0.206, 4.0)


def test_a_trial_in_which_nothing_was_kept_away_is_none(journal: Path) -> None:
    with pytest.raises(ValueError, match="kept away 0 times"):
        read(journal, trial(waits=[]))
