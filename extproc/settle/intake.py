"""The intake: what becomes of each access log entry.

In: entries from the access log service, on the event loop. Out: rows handed to the writer, answers to keep handed to
the cache's recorder, sizes learnt by the estimate, counters of what makes no row. Waits for nothing.
"""

import logging
from collections.abc import Callable
from typing import Protocol

from extproc.budget.estimate import OutputEstimates
from extproc.cache.tape import Taker
from extproc.errors import AnswerUnread
from extproc.settle.attempts import settle_attempt
from extproc.settle.estimate import OutputFromBytes
from extproc.settle.recent import Recent
from extproc.settle.recordings import record, told
from extproc.settle.rows import AttemptRow, AuditRow
from extproc.settle.settle import settle_request, verdict_on_answer
from extproc.settle.verdicts import Verdicts
from extproc.telemetry.content import Content
from extproc.telemetry.trace_context import ids
from extproc.wire import LOG_ATTEMPT, LOG_REQUEST, M_CROWDED, M_INPUT, M_RECORD, METADATA
from protos.gen import accesslog_pb2 as pb

log = logging.getLogger(__name__)


class Sink(Protocol):
    """Where rows go: the writer."""

    def add(self, row: AuditRow | AttemptRow | Content) -> None:
        """Take a row. Must not wait."""

    def count(self, name: str) -> None:
        """Add one to a counter."""


class Intake:
    """Entries in, rows out. `attempted` is told of every attempt, `orphaned` of requests that nobody has a team for."""

    def __init__(
        self,
        sink: Sink,
        sizes: OutputFromBytes,
        outputs: OutputEstimates,
        recent: Recent,
        *,
        attempted: Callable[[AttemptRow], None],
        recorder: Taker | None = None,
        orphaned: Callable[[pb.HTTPAccessLogEntry], None] | None = None,
    ) -> None:
        self._recent = recent
        self._attempted = attempted
        self.verdicts = Verdicts(self._attempt, recent)
        self._recorder = recorder
        self._orphaned = orphaned
        self._sink = sink
        self._sizes = sizes
        self._outputs = outputs

    def take(self, log_name: str, entry: pb.HTTPAccessLogEntry) -> None:
        """Settle one entry of the log `log_name`. Raises ValueError for a log that is not ours."""
        if log_name == LOG_REQUEST:
            self._request(entry)
        elif log_name == LOG_ATTEMPT:
            attempt = settle_attempt(entry)
            if attempt is not None:
                self.verdicts.attempt(attempt)
        else:
            raise ValueError(f"no log is named {log_name!r}")

    def unreadable(self) -> None:
        """Something came that is no entry, or one that could not be settled."""
        self._sink.count("unreadable_entries")

    def _attempt(self, row: AttemptRow) -> None:
        self._sink.add(row)
        self._attempted(row)

    def _request(self, entry: pb.HTTPAccessLogEntry) -> None:
        row = settle_request(entry, self._sizes.tokens)
        if row is not None:
            self._recent.add(row.request_id)
            learn(row, self._sizes, self._outputs)
            self._sink.add(row)
            self.verdicts.request(row, verdict_on_answer(entry, row))
            ours = entry.common_properties.metadata.filter_metadata[METADATA].fields
            self._count(row, crowded=M_CROWDED in ours)
            if M_INPUT in ours:
                self._sink.add(told(entry, row))
            if self._recorder is not None and M_RECORD in ours:
                record(entry, row, self._recorder)
        elif entry.response.response_code.value in (401, 403, 429):  # nobody's; 429: too many from one address
            by_address = entry.response.response_code_details.startswith("rbac_")
            self._sink.count("refused_addresses" if by_address else "unauthenticated_requests")
        elif self._orphaned is not None:
            self._orphaned(entry)

    def _count(self, row: AuditRow, *, crowded: bool) -> None:
        """What of an answer that was to pass by Envoy alone an operator is to know."""
        if row.error_code == AnswerUnread.code:
            log.warning("no worker was there to read an answer", extra=ids(row.request_id, row.traceparent))
            self._sink.count("unread_answers")
        elif crowded:
            self._sink.count("crowded_answers")


def learn(row: AuditRow, sizes: OutputFromBytes, outputs: OutputEstimates) -> None:
    """Take in how long and how large an answer was; cut ones teach nothing."""
    sizes.learn(row)
    if row.status in ("success", "fallback") and not row.estimated and not row.cache_hit and row.model_used:
        outputs.observe(row.team_id, row.model_used, row.output_tokens)
