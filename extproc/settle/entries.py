"""What an entry of Envoy's access log holds: response flags, times, and what others left in its metadata.

In: an entry. Out: flags and times as plain values; `Said`, what the worker and Envoy's reader of native streams left in
the entry's dynamic metadata, each part of it possibly missing (the worker was killed, the client left early). Pure.
Read by `settle` and `attempts`.
"""

import logging
import math
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from extproc.adapters.usage import MOST_TOKENS, from_envoy
from extproc.records import Decision, Outcome, Usage
from extproc.telemetry.trace_context import ids
from extproc.wire import M_CUT, M_DECISION, M_OUTCOME, M_TEAM, M_USAGE, METADATA, USAGE_METADATA
from protos.gen import accesslog_pb2 as pb

log = logging.getLogger(__name__)

CLIENT_LEFT: Final = ("downstream_connection_termination", "downstream_remote_reset", "downstream_protocol_error")
STREAM_TIMED_OUT: Final = ("stream_idle_timeout", "duration_timeout", "upstream_max_stream_duration_reached")
TIMED_OUT: Final = ("upstream_request_timeout", *STREAM_TIMED_OUT)
BROKE_OFF: Final = (
    "upstream_remote_reset",
    "upstream_connection_termination",
    "upstream_protocol_error",
    "local_reset",
)
UNREACHABLE: Final = (
    "no_healthy_upstream",
    "upstream_connection_failure",
    "upstream_overflow",
    "no_route_found",
    "no_cluster_found",
    "upstream_retry_limit_exceeded",
)
_FLAGS: Final = (*CLIENT_LEFT, *TIMED_OUT, *BROKE_OFF, *UNREACHABLE)

_T = TypeVar("_T")


class Said(msgspec.Struct, frozen=True):
    """What the worker, and Envoy's reader of native streams, left in the entry's metadata."""

    team: str
    decision: Decision | None
    outcome: Outcome | None
    native_usage: Usage | None  # None: not native, or its usage event never came
    native_finish_reason: str | None
    cut: bool  # the client of a native stream was told an error, by the provider or at its end

    @classmethod
    def of(cls, entry: pb.HTTPAccessLogEntry) -> "Said":
        metadata = entry.common_properties.metadata.filter_metadata
        ours = metadata[METADATA].fields if METADATA in metadata else {}
        outcome = _decoded(ours[M_OUTCOME].string_value, Outcome, entry) if M_OUTCOME in ours else None
        read = metadata[USAGE_METADATA].fields if outcome and outcome.native and USAGE_METADATA in metadata else {}
        return cls(
            team=ours[M_TEAM].string_value if M_TEAM in ours else "",
            decision=_decoded(ours[M_DECISION].string_value, Decision, entry) if M_DECISION in ours else None,
            outcome=outcome,
            native_usage=_native_usage(read),
            native_finish_reason=(read["finish_reason"].string_value or None) if "finish_reason" in read else None,
            cut=M_CUT in read,
        )

    @property
    def usage(self) -> Usage | None:
        """Tokens as the provider counted them. None: nobody saw its usage."""
        if self.outcome is not None and self.outcome.usage is not None:
            return _bounded(self.outcome.usage)
        return self.native_usage


def _decoded(text: str, kind: type[_T], entry: pb.HTTPAccessLogEntry) -> _T | None:
    """The record in `text`; None, and a log line, if it cannot be read: the row says then what is known without it."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        log.warning("unreadable metadata", extra={"record": kind.__name__, "reason": str(error)} | whose(entry))
        return None


class _Traced(msgspec.Struct):
    """Of a Decision, which may be unreadable otherwise."""

    traceparent: str | None = None


def whose(entry: pb.HTTPAccessLogEntry) -> dict[str, str]:
    """Whose entry it is, for a log line; without a trace where that cannot be told."""
    request_id = entry.request.request_id or entry.common_properties.stream_id
    metadata = entry.common_properties.metadata.filter_metadata
    decision = metadata[METADATA].fields[M_DECISION].string_value if METADATA in metadata else ""
    try:
        return ids(request_id, msgspec.json.decode(decision or "{}", type=_Traced).traceparent)
    except msgspec.DecodeError:
        return {"request_id": request_id}


def _native_usage(read: Mapping[str, Value]) -> Usage | None:
    counts = {name: value.number_value for name, value in read.items()}
    usage = from_envoy(counts, read[M_USAGE].string_value if M_USAGE in read else "")
    return _bounded(usage) if usage else None


def _count(number: float) -> int:
    return int(min(max(number, 0), MOST_TOKENS)) if math.isfinite(number) else 0


def _bounded(usage: Usage) -> Usage:
    """As it is, but for numbers that no count can have."""
    counts = msgspec.structs.astuple(usage)
    return usage if all(0 <= count <= MOST_TOKENS for count in counts) else Usage(*map(_count, counts))


def set_flags(flags: pb.ResponseFlags) -> tuple[str, ...]:
    """Names of the set flags, of those that are known here."""
    # Only the set ones are listed: none, nearly always.
    names = {field.name for field, _ in flags.ListFields()}
    return tuple(name for name in _FLAGS if name in names) if names else ()


def seconds(timestamp: Timestamp) -> float:
    """Since the epoch."""
    return float(timestamp.seconds + timestamp.nanos / 1e9)


def duration_ms(duration: Duration) -> float:
    """In milliseconds."""
    return float(duration.seconds * 1000 + duration.nanos / 1e6)


def present_ms(common: pb.AccessLogCommon, name: str) -> float | None:
    """The duration `name` in milliseconds; None: the entry has none."""
    return duration_ms(getattr(common, name)) if common.HasField(name) else None
