"""Access log entry -> audit row or attempt row. Pure: this is where it is decided what came of a request.

In: an entry of Envoy's, with the worker's Decision and Outcome in its dynamic metadata, each of them possibly missing
(the worker was killed, the client left early). Out: the row, or None when there is nothing to write down. Called by the
intake for every entry.

Usage is the worker's if it saw any, else what Envoy read out of a native stream, else estimated from the bytes that
were sent. Status is the first rule of STATUS_RULES that applies.
"""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from extproc.adapters.failures import retry_after_s
from extproc.adapters.usage import MOST_TOKENS, from_envoy
from extproc.budget.ledger import MAX_AMOUNT
from extproc.pricing import cost_nano_usd
from extproc.records import NATIVE_FORMATS, Decision, Outcome, Status, Target, Usage
from extproc.settle.rows import AttemptRow, AuditRow, Verdict
from extproc.telemetry.trace_context import ids
from extproc.wire import (
    M_CUT,
    M_DECISION,
    M_OUTCOME,
    M_TEAM,
    M_USAGE,
    METADATA,
    MODEL_ROUTE_PREFIX,
    USAGE_METADATA,
    provider_cluster,
)
from protos.gen import accesslog_pb2 as pb

log = logging.getLogger(__name__)

# Who answered, whether streamed, bytes of it that were sent -> output tokens and, among them, reasoning tokens.
EstimateOutput = Callable[[Target, bool, int], tuple[int, int]]

_CLIENT_LEFT: Final = ("downstream_connection_termination", "downstream_remote_reset", "downstream_protocol_error")
_STREAM_TIMED_OUT: Final = ("stream_idle_timeout", "duration_timeout", "upstream_max_stream_duration_reached")
_TIMED_OUT: Final = ("upstream_request_timeout", *_STREAM_TIMED_OUT)
_BROKE_OFF: Final = (
    "upstream_remote_reset",
    "upstream_connection_termination",
    "upstream_protocol_error",
    "local_reset",
)
_UNREACHABLE: Final = (
    "no_healthy_upstream",
    "upstream_connection_failure",
    "upstream_overflow",
    "no_route_found",
    "no_cluster_found",
    "upstream_retry_limit_exceeded",
)
_FLAGS: Final = (*_CLIENT_LEFT, *_TIMED_OUT, *_BROKE_OFF, *_UNREACHABLE)

# What a client is told by Envoy itself, where no worker said anything.
_CODE_OF_STATUS: Final = {
    408: "request_timeout",
    413: "request_too_large",
    502: "provider_error",
    503: "no_provider_available",
    504: "provider_timeout",
}
# What an answer says of its provider by the error that was found in it.
_VERDICTS: Final[dict[str | None, Verdict]] = {"provider_error": "error", "rate_limit_exceeded": "rate_limited"}
_OUR_CREDENTIAL_REFUSED: Final = (401, 403)
_STREAMS: Final = ("text/event-stream", "application/vnd.amazon.eventstream")
_PROVIDER_PREFIX: Final = provider_cluster("")
# How Envoy's details begin where a worker died, and where an answer broke off.
_WORKER_GONE: Final = "ext_proc_error"
_BEGAN: Final = "upstream_reset_after_response_started"

_T = TypeVar("_T")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What decides a request's status."""

    http_status: int = 200  # 0: none was sent
    error_code: str | None = None  # the worker's, told to the client
    attempts: int = 1
    target: int = 1  # 1-based: which of the targets answered
    stream: bool = False
    whole: bool = False  # the provider's answer was seen to its end
    client_left: bool = False
    broken: bool = False  # it was cut by a deadline or by the provider


STATUS_RULES: Final[tuple[tuple[Status, Callable[[Facts], bool]], ...]] = (
    ("refused", lambda f: f.error_code is not None and f.attempts == 0),
    ("failed", lambda f: f.error_code is not None),
    # Clients hang up on `[DONE]`, before the stream's formal end: nothing is missing then.
    ("cancelled", lambda f: f.client_left and not (f.stream and f.whole)),
    ("refused", lambda f: f.attempts == 0 and 400 <= f.http_status < 500),  # by Envoy itself: too large
    ("failed", lambda f: f.http_status >= 400 or f.http_status == 0 or not f.whole or f.broken),
    # Not so when the first target was passed over without being tried: that is a success.
    ("fallback", lambda f: f.target > 1 and f.attempts > 1),
    ("success", lambda _: True),
)


def status_of(facts: Facts) -> Status:
    """The first status whose rule applies."""
    return next(status for status, applies in STATUS_RULES if applies(facts))


def settle_request(entry: pb.HTTPAccessLogEntry, estimate: EstimateOutput) -> AuditRow | None:
    """The audit row of a finished request. None: nobody was authenticated, or it has no id to be known by."""
    common = entry.common_properties
    said = _Said.of(entry)
    request_id = entry.request.request_id or common.stream_id
    team_id = said.team or (said.decision.team_id if said.decision else "")
    if not team_id or not request_id:
        return None
    decision = said.decision or Decision(request_id=request_id, team_id=team_id)
    outcome = said.outcome
    started_s = _seconds(common.start_time)
    attempts = outcome.attempts if outcome else common.upstream_request_attempt_count
    index = outcome.attempt if outcome else max(1, attempts)
    target = _target(decision, index) if attempts else None
    cache_hit = decision.cache in ("hit", "semantic-hit")
    flags = _set_flags(common.response_flags)
    native = outcome is not None and outcome.native
    facts = Facts(
        http_status=entry.response.response_code.value,
        error_code=outcome.error_code if outcome else None,
        attempts=attempts,
        target=index,
        stream=decision.stream,
        whole=outcome is not None and (outcome.complete or (said.native_usage is not None and not said.cut)),
        client_left=any(flag in _CLIENT_LEFT for flag in flags),
        broken=_broken(flags, native),
    )
    status = status_of(facts)
    usage = said.usage
    # Providers bill no answer that is an error.
    answered = facts.http_status == 200 or (facts.http_status == 0 and facts.client_left) or _cut(entry, said, flags)
    estimated = usage is None and target is not None and answered
    if usage is None:
        usage = _from_bytes(entry, decision, target, estimate) if target is not None and answered else Usage()
    latency_ms = _ms(common.duration)
    outrun = _outrun(decision, outcome)
    return AuditRow(
        request_id=request_id,
        team_id=team_id,
        model_requested=decision.model_requested,
        model_routed=decision.model_routed,
        model_used=target.model if target else decision.model_routed if cache_hit else None,
        provider_used=target.provider if target else None,
        status=status,
        error_code=_error_code(status, facts, flags),
        http_status=facts.http_status or None,
        routing_decision="fallback" if target and index > 1 else decision.routing_decision,
        attempts=attempts,
        priority=decision.priority,
        stream=decision.stream,
        native=native and target is not None and target.format in NATIVE_FORMATS,
        cache_hit=cache_hit,
        prompt_hash=decision.prompt_hash,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        estimated_input_tokens=decision.input_tokens,
        estimated_output_tokens=decision.estimated_output_tokens,
        estimated=estimated,
        cost_nano_usd=_cost(usage, target, outrun),
        outrun_tokens=len(outrun) * decision.input_tokens,
        finish_reason=(outcome.finish_reason if outcome else None) or said.native_finish_reason,
        received_at=decision.received_at or started_s,
        completed_at=started_s + latency_ms / 1000,
        latency_ms=latency_ms,
        first_byte_ms=_present_ms(common, "time_to_first_downstream_tx_byte"),
        gateway_latency_ms=decision.decided_us / 1000 if decision.decided_us else None,
        response_bytes=entry.response.response_body_bytes,
        details=entry.response.response_code_details,
        traceparent=decision.traceparent,
        steps_us=msgspec.json.encode(decision.steps_us).decode() if decision.steps_us else "",
        cache=decision.cache,
        saved_tokens=outcome.saved_tokens if outcome else 0,
        saved_nano_usd=outcome.saved_nano_usd if outcome and cache_hit else 0,
    )


def settle_attempt(entry: pb.HTTPAccessLogEntry) -> AttemptRow | None:
    """The row of one attempt. None: the entry is not about a provider (the ingress's view of the fallback hop).

    All that an attempt's entry has to tell it from another of the same request is its own start; Envoy gives it neither
    a number nor the request's metadata.
    """
    common = entry.common_properties
    request_id = entry.request.request_id or common.stream_id
    provider = common.upstream_cluster.removeprefix(_PROVIDER_PREFIX)
    if provider == common.upstream_cluster or not request_id:
        return None
    flags = _set_flags(common.response_flags)
    status = entry.response.response_code.value
    started_s = _seconds(common.start_time)
    ended_s = started_s + _ms(common.duration) / 1000
    sent_ms = _present_ms(common, "time_to_first_upstream_tx_byte")
    headers = entry.response.response_headers
    return AttemptRow(
        request_id=request_id,
        provider=provider,
        model=common.route_name.removeprefix(MODEL_ROUTE_PREFIX),
        started_at=started_s,
        verdict=verdict_of(status, flags),
        status=status or None,
        flags=",".join(flags),
        first_byte_ms=_since(sent_ms, _present_ms(common, "time_to_first_upstream_rx_byte")),
        total_ms=_since(sent_ms, _present_ms(common, "time_to_last_upstream_rx_byte")),
        stream=headers.get("content-type", "").startswith(_STREAMS),
        retry_after_s=retry_after_s(headers, ended_s) if status == 429 else None,
        at=ended_s,
    )


def verdict_on_answer(entry: pb.HTTPAccessLogEntry, row: AuditRow) -> Verdict | None:
    """What the request of `row` says of the attempt that answered it with 200. None: nothing against it.

    A native stream nobody read: one that ended with neither a finish_reason nor usage had an error event, or no end.
    """
    outcome = _Said.of(entry).outcome if row.status == "failed" else None
    if outcome is None:  # the worker was killed: not the provider's doing
        return None
    return _VERDICTS.get(outcome.error_code or (None if row.finish_reason else row.error_code))


def verdict_of(status: int, flags: tuple[str, ...]) -> Verdict:
    """What an attempt says about its provider. A refusal of the client's own input is an answer like another."""
    if status and flags == ("upstream_request_timeout",):
        flags = ()  # late, but it came: the deadline only started a race
    if any(flag in _TIMED_OUT or flag in _BROKE_OFF or flag in _UNREACHABLE for flag in flags):
        return "error"
    if status == 0:
        return "abandoned"  # the client left before there was an answer
    if status == 429:
        return "rate_limited"
    return "error" if status >= 500 or status in (408, 424) or status in _OUR_CREDENTIAL_REFUSED else "ok"


class _Said(msgspec.Struct, frozen=True):
    """What the worker, and Envoy's reader of native streams, left in the entry's metadata."""

    team: str
    decision: Decision | None
    outcome: Outcome | None
    native_usage: Usage | None  # None: not native, or its usage event never came
    native_finish_reason: str | None
    cut: bool  # the client of a native stream was told an error at its end

    @classmethod
    def of(cls, entry: pb.HTTPAccessLogEntry) -> "_Said":
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


def _outrun(decision: Decision, outcome: Outcome | None) -> list[tuple[Target, Usage]]:
    """Attempts that lost a race, and what their providers may bill: the input, which they had read."""
    indexes = outcome.outrun if outcome else ()
    read = Usage(input_tokens=decision.input_tokens)
    return [(target, read) for index in indexes if (target := _target(decision, index)) is not None]


def _cost(usage: Usage, target: Target | None, outrun: list[tuple[Target, Usage]]) -> int | None:
    """Of all that was asked, as far as the ledger can count. None: the price of a part is not known."""
    asked = [*([(target, usage)] if target else []), *outrun]
    costs = [cost_nano_usd(used, each.price) for each, used in asked]
    return None if None in costs else min(sum(cost or 0 for cost in costs), MAX_AMOUNT)


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


def _cut(entry: pb.HTTPAccessLogEntry, said: _Said, flags: tuple[str, ...]) -> bool:
    """Whether a provider answered, but what came was held back and the client told of an error: the worker died before
    it could tell what it is, or the answer broke off or fell silent before it was whole."""
    details = entry.response.response_code_details
    if details.startswith(_WORKER_GONE):
        return said.outcome is None and entry.common_properties.upstream_request_attempt_count > 0
    silent = any(flag in _STREAM_TIMED_OUT for flag in flags)
    return details.startswith(_BEGAN) or (silent and entry.common_properties.upstream_wire_bytes_received > 0)


def _from_bytes(entry: pb.HTTPAccessLogEntry, decision: Decision, target: Target, estimate: EstimateOutput) -> Usage:
    """The estimate of an answer that was cut. One that had not begun is billed for its input at least."""
    response = entry.response
    output, reasoning = 0, 0
    if response.response_code.value == 200:
        output, reasoning = estimate(target, decision.stream, response.response_body_bytes)
    elif (
        response.response_code.value
    ):  # what was sent is Envoy's own; headers are about what the worker would have added
        output, reasoning = estimate(target, decision.stream, entry.common_properties.upstream_wire_bytes_received)
    counted = decision.input_tokens if decision.counted_tokens is None else decision.counted_tokens
    return Usage(input_tokens=counted, output_tokens=output, reasoning_tokens=reasoning)


def _bounded(usage: Usage) -> Usage:
    """As it is, but for numbers that no count can have."""
    counts = msgspec.structs.astuple(usage)
    return usage if all(0 <= count <= MOST_TOKENS for count in counts) else Usage(*map(_count, counts))


def _broken(flags: tuple[str, ...], native: bool) -> bool:
    """What the worker read to its end was not broken off by the provider, whatever came of an earlier attempt."""
    return any(flag in _STREAM_TIMED_OUT or (native and flag in _BROKE_OFF) for flag in flags)


def _error_code(status: Status, facts: Facts, flags: tuple[str, ...]) -> str | None:
    if facts.error_code is not None:
        return facts.error_code
    if status not in ("failed", "refused"):
        return None
    if facts.http_status >= 400:
        other = "internal_error" if facts.http_status >= 500 else "invalid_request_error"
        return _CODE_OF_STATUS.get(facts.http_status, other)
    return "provider_timeout" if any(flag in _TIMED_OUT for flag in flags) else "provider_error"


def _target(decision: Decision, index: int) -> Target | None:
    """The `index`-th target; a number beyond them is the last one's."""
    return decision.targets[min(index, len(decision.targets)) - 1] if decision.targets else None


def _set_flags(flags: pb.ResponseFlags) -> tuple[str, ...]:
    # Only the set ones are listed: none, nearly always.
    names = {field.name for field, _ in flags.ListFields()}
    return tuple(name for name in _FLAGS if name in names) if names else ()


def _seconds(timestamp: Timestamp) -> float:
    return float(timestamp.seconds + timestamp.nanos / 1e9)


def _ms(duration: Duration) -> float:
    return float(duration.seconds * 1000 + duration.nanos / 1e6)


def _present_ms(common: pb.AccessLogCommon, name: str) -> float | None:
    return _ms(getattr(common, name)) if common.HasField(name) else None


def _since(start_ms: float | None, end_ms: float | None) -> float | None:
    return None if start_ms is None or end_ms is None else max(0.0, end_ms - start_ms)
