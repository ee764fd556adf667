"""What a row adds to the journal's sums. Pure.

In: audit rows, and attempts. Out: for each table of sums, keys with what is to be added to them. The journal writes
them in the transaction that writes the rows, so that sums and rows always agree, and nobody who wants a month's total
has to read a month's rows. Read by the usage, metrics and dashboard endpoints.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic, TypeVar

import msgspec

from extproc.routing.health import REFUSED
from extproc.settle import histograms
from extproc.settle.rows import UNRECONCILED, AttemptRow, AuditRow

BUCKET_S: Final = 900  # of the sums: every time zone's midnight is a multiple of 15 minutes
EVER: Final = 0  # the bucket that sums up everything since the journal began, and never shrinks
AUTO: Final = "auto"

Parts = Iterator[tuple[tuple[object, ...], tuple[float, ...]]]  # keys of a sum, and what is added to it


Row = TypeVar("Row")
CREDENTIAL_REFUSED: Final = "credential_refused"


class Table(msgspec.Struct, Generic[Row], frozen=True):
    """A table of sums: its columns, and what one row adds to it."""

    name: str
    keys: tuple[str, ...]
    summed: tuple[str, ...]
    parts: Callable[[Row], Parts]

    def added(self, rows: Iterable[Row], sign: int = 1) -> list[tuple[object, ...]]:
        """What `rows` add, or with `sign` -1 take away: the keys of each sum, and what is to be added to it."""
        sums: dict[tuple[object, ...], list[float]] = defaultdict(lambda: [0] * len(self.summed))
        for row in rows:
            for key, values in self.parts(row):
                so_far = sums[key]
                for index, value in enumerate(values):
                    so_far[index] += sign * value
        return [(*key, *values) for key, values in sums.items()]


SUMMED: Final = (
    "requests",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost_nano_usd",
    "unpriced",  # requests that used something whose price is not known
    "latency_ms",
)


def _usage(row: AuditRow) -> Parts:
    """Models are those that were used or chosen, never names that clients made up."""
    key = (row.team_id, row.model_used or row.model_routed, row.provider_used or "", row.status)
    values = (
        1,
        row.input_tokens,
        row.output_tokens,
        row.cached_tokens,
        row.reasoning_tokens,
        row.cost_nano_usd or 0,
        row.cost_nano_usd is None,
        row.latency_ms,
    )
    for bucket_s in (EVER, _bucket_s(row)):
        yield (bucket_s, *key), values


def _routed(row: AuditRow) -> Parts:
    """How requests were routed that were sent somewhere."""
    if row.model_used is not None:
        key = (_bucket_s(row), row.team_id, row.model_requested == AUTO, row.routing_decision, row.model_used)
        yield key, (1, row.input_tokens, row.output_tokens, row.cached_tokens, row.cost_nano_usd or 0)


def _reason(row: AuditRow) -> Parts:
    """Refusals and unreconciled holds by their error code: codes of our own, so there are few."""
    if row.error_code and (row.status == "refused" or row.error_code == UNRECONCILED):
        yield (row.team_id, row.error_code), (1,)


def _attempted(row: AttemptRow) -> Parts:
    """Attempts by what came of them; a refusal of our credential is told apart from other errors."""
    yield (row.provider, row.model, CREDENTIAL_REFUSED if row.status in REFUSED else row.verdict), (1,)


def _bucket_s(row: AuditRow) -> int:
    return int(row.received_at) // BUCKET_S * BUCKET_S


TABLES: Final[tuple[Table[AuditRow], ...]] = (
    Table("sums", ("bucket_s", "team_id", "model", "provider", "status"), SUMMED, _usage),
    Table(
        "routed",
        ("bucket_s", "team_id", "auto", "decision", "model"),
        ("requests", "input_tokens", "output_tokens", "cached_tokens", "cost_nano_usd"),
        _routed,
    ),
    Table(
        "histogram",
        ("metric", "team_id", "model", "provider", "detail", "bucket"),
        ("count", "total"),
        histograms.observed,
    ),
    Table("reason", ("team_id", "reason"), ("requests",), _reason),
)
ATTEMPTED: Final = Table("attempted", ("provider", "model", "result"), ("attempts",), _attempted)
