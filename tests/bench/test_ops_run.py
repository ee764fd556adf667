"""What the run of operations calls a problem. The run itself is `make ops-run DURATION=60`, or longer."""

import msgspec
import pytest

from bench.books import Books, Sums
from bench.ops_run import Outcome

GOOD = Outcome(
    done={},
    sent={"stream": 2, "whole": 1},
    failures=[],
    books=Books(Sums(3, 30), {"success": 3}, ledger_tokens=30, held_tokens=0, provider=Sums(3, 30)),
    logged=[],
)


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
