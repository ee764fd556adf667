"""Two gateways operated under load, briefly; and what the long run calls a problem."""

from pathlib import Path

import msgspec
import pytest

from bench.books import Books, Sums
from bench.ops_run import Kind, Outcome, operate

KINDS = (
    Kind("openai", stream=False, chunks=20, gap_ms=0, share=0.4),
    Kind("openai", stream=True, chunks=20, gap_ms=100, share=0.3),
    Kind("anthropic", stream=True, chunks=20, gap_ms=100, share=0.3),
)
GOOD = Outcome(
    done={},
    sent={"stream": 2, "whole": 1},
    failures=[],
    books=Books(Sums(3, 30), {"success": 3}, ledger_tokens=30, held_tokens=0, provider=Sums(3, 30)),
    logged=[],
)


@pytest.mark.envoy
@pytest.mark.timeout(300)
async def test_a_rotation_and_a_rolling_restart_lose_nothing(tmp_path: Path) -> None:
    outcome = await operate(tmp_path, seconds=4, rate=10, reloads=0, restarts=1, kinds=KINDS)  # a rotation reloads too
    assert outcome.problems == []
    assert outcome.done == {"key rotations": 1, "rolling restarts": 1}
    assert outcome.sent["stream"] > 10
    assert outcome.books.audit.tokens > 0


@pytest.mark.parametrize(
    ("books", "says"),
    [
        ({"audit": Sums(2, 30)}, ["audit rows: 2 requests, 3 were sent"]),
        ({"provider": Sums(4, 30)}, ["provider: 4 requests, 3 were sent"]),
        ({"ledger_tokens": 29}, ["tokens: audit 30, ledger 29, provider 30"]),
        ({"held_tokens": 5}, ["5 tokens are still held"]),
        ({"statuses": {"success": 2, "cancelled": 1}}, ["audit statuses: {'success': 2, 'cancelled': 1}"]),
    ],
)
def test_books_that_differ_are_a_problem(books: dict[str, object], says: list[str]) -> None:
    changed = msgspec.structs.replace(GOOD, books=msgspec.structs.replace(GOOD.books, **books))
    assert (GOOD.problems, changed.problems) == ([], says)


def test_a_failed_request_and_a_complaint_are_problems() -> None:
    assert msgspec.structs.replace(GOOD, failures=["request 1"], logged=["cut off"]).problems == [
        "request 1",
        "cut off",
    ]
