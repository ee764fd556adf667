"""What the audit rows of a failover trial say. In: the journal, who was broken and when, what the settler told workers
of it. Out: `Reading`. Called by `bench.failover`. Times are seconds since the epoch, durations seconds.

The *first failure* is the end of the first attempt there that failed: nobody can know before. *Routed around* is when
the last request began whose first attempt went there; those that were let through on purpose are probes: begun after
the circuit was half-open, or after a rate limit's wait was over.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

_FIRSTS = """
    SELECT attempt.request_id, attempt.started_at, attempt.at, attempt.verdict, audit.http_status, audit.latency_ms
    FROM audit JOIN attempt ON attempt.request_id = audit.request_id
    WHERE audit.model_requested = ? AND attempt.provider = ? AND audit.received_at BETWEEN ? AND ?
    AND attempt.started_at = (SELECT min(started_at) FROM attempt WHERE request_id = audit.request_id)
    ORDER BY attempt.started_at
"""
_ANSWERS = """
    SELECT received_at, http_status, latency_ms, coalesce(settled_at, completed_at) - completed_at FROM audit
    WHERE model_requested = ? AND received_at BETWEEN ? AND ?
"""


class Trial(msgspec.Struct, frozen=True):
    """One provider, broken once. `closed_s`: when it was in use again. `waits`: (known from, until) of what kept
    requests away: an open circuit, or a rate limit; in order."""

    provider: str
    model: str
    broken_s: float
    healed_s: float
    closed_s: float
    waits: Sequence[tuple[float, float]]


class Reading(msgspec.Struct, frozen=True):
    """One trial."""

    from_failure_s: float  # the last request that went there, after the first failure
    from_attempt_s: float  # ... after the first attempt that failed began
    failed_over: int  # requests whose first attempt failed, before it was routed around
    probes: int
    errors_before: int  # clients that saw anything but 200, until the circuit was open
    errors_after: int  # ... from then until it was in use again
    asked: int
    slowest_s: float
    settled_s: float  # from a request's end to its charge, the longest: what is slow here is slow to notice, too
    back_s: float  # in use again, after it was well


def written(journal: Path) -> int:
    """How many requests have their row."""
    with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as rows:
        return int(rows.execute("SELECT count(*) FROM audit").fetchone()[0])


def read(journal: Path, trial: Trial) -> Reading:
    """The reading of a trial whose rows are all there. Raises ValueError where nothing failed or was kept away."""
    with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as rows:
        span = trial.broken_s, trial.closed_s
        firsts = rows.execute(_FIRSTS, (trial.model, trial.provider, *span)).fetchall()
        answers = rows.execute(_ANSWERS, (trial.model, *span)).fetchall()
    failed = [(began_s, ended_s) for _, began_s, ended_s, verdict, *_ in firsts if verdict != "ok"]
    if not failed or not trial.waits:
        raise ValueError(f"{trial.provider}: {len(failed)} failed attempts, kept away {len(trial.waits)} times")
    failure_s = min(ended_s for _, ended_s in failed)
    known_s, until_s = trial.waits[0]
    last_s = max(began_s for _, began_s, *_ in firsts if began_s < until_s)
    wrong = [received_s for received_s, status, *_ in answers if status != 200]
    return Reading(
        from_failure_s=last_s - failure_s,
        from_attempt_s=last_s - failed[0][0],
        failed_over=sum(began_s < until_s for began_s, _ in failed),
        probes=sum(until_s <= began_s < trial.healed_s for _, began_s, *_ in firsts),
        errors_before=sum(at_s < known_s for at_s in wrong),
        errors_after=sum(at_s >= known_s for at_s in wrong),
        asked=len(answers),
        slowest_s=max(latency_ms for _, _, latency_ms, _ in answers) / 1000,
        settled_s=max(settled_s for *_, settled_s in answers),
        back_s=trial.closed_s - trial.healed_s,
    )


HEAD = (
    "| the provider | trials | from the first failure to the last request that went there: median, worst | under 2 s "
    "| from the first attempt's begin: worst | failed over, worst | probes | client errors before, after "
    "| slowest answer | in use again after, worst | settled after, worst |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def row(name: str, found: Sequence[Reading]) -> str:
    """A row of the table."""
    took_s = sorted(reading.from_failure_s for reading in found)
    return (
        f"| {name} | {len(found)} | {took_s[len(took_s) // 2]:.2f} s, {took_s[-1]:.2f} s "
        f"| {sum(each < 2 for each in took_s)} | {max(reading.from_attempt_s for reading in found):.2f} s "
        f"| {max(reading.failed_over for reading in found)} | {sum(reading.probes for reading in found)} "
        f"| {sum(reading.errors_before for reading in found)}, {sum(reading.errors_after for reading in found)} of "
        f"{sum(reading.asked for reading in found)} | {max(reading.slowest_s for reading in found):.2f} s "
        f"| {max(reading.back_s for reading in found):.1f} s | {max(reading.settled_s for reading in found):.1f} s |"
    )
