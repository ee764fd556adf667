"""Access log entry -> audit row. Pure: this is where it is decided what came of a request.

In: an entry of Envoy's, with the worker's Decision and Outcome in it if they came so far (`entries.Said`). Out: the
row, or None when there is nothing to write down. Called by the intake for every request. Attempts are in `attempts`.

Usage is the worker's if it saw any, else what Envoy read out of a native stream, else estimated from the bytes that
were sent. Status is the first rule of STATUS_RULES that applies.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from extproc.budget.ledger import MAX_AMOUNT
from extproc.pricing import cost_nano_usd
from extproc.records import NATIVE_FORMATS, Decision, Outcome, Status, Target, Usage
from extproc.settle.entries import (
    BROKE_OFF,
    CLIENT_LEFT,
    STREAM_TIMED_OUT,
    TIMED_OUT,
    Said,
    duration_ms,
    present_ms,
    seconds,
    set_flags,
)
from extproc.settle.rows import AuditRow, Verdict
from extproc.wire import WORKER_GONE
from protos.gen import accesslog_pb2 as pb

# Who answered, whether streamed, bytes of it that were sent -> output tokens and, among them, reasoning tokens.
EstimateOutput = Callable[[Target, bool, int], tuple[int, int]]

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
# How Envoy's details begin where an answer broke off.
_BEGAN: Final = "upstream_reset_after_response_started"


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
    flags: tuple[str, ...] = ()  # Envoy's, of the request


STATUS_RULES: Final[tuple[tuple[Status, Callable[[Facts], bool]], ...]] = (
    ("refused", lambda f: f.error_code is not None and f.attempts == 0),
    ("failed", lambda f: f.error_code is not None),
    # By Envoy itself: too large, or a chunk that is none, behind which it hangs up. Who leaves has no status.
    ("refused", lambda f: f.attempts == 0 and 400 <= f.http_status < 500),
    # Clients hang up on `[DONE]`, before the stream's formal end: nothing is missing then.
    ("cancelled", lambda f: f.client_left and not (f.stream and f.whole)),
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
    said = Said.of(entry)
    request_id = entry.request.request_id or common.stream_id
    team_id = said.team or (said.decision.team_id if said.decision else "")
    if not team_id or not request_id:
        return None
    decision = said.decision or Decision(request_id=request_id, team_id=team_id)
    outcome = said.outcome
    facts = _facts(entry, said, decision)
    status = status_of(facts)
    target = _answering(decision, facts)
    usage, estimated = _billed(entry, said, decision, facts, estimate)
    outrun = _outrun(decision, outcome)
    cache_hit = decision.cache in ("hit", "semantic-hit")
    started_s, latency_ms = seconds(common.start_time), duration_ms(common.duration)
    return AuditRow(
        request_id=request_id,
        team_id=team_id,
        model_requested=decision.model_requested,
        model_routed=decision.model_routed,
        model_used=target.model if target else decision.model_routed if cache_hit else None,
        provider_used=target.provider if target else None,
        status=status,
        error_code=_error_code(status, facts),
        http_status=facts.http_status or None,
        routing_decision="fallback" if target and facts.target > 1 else decision.routing_decision,
        attempts=facts.attempts,
        priority=decision.priority,
        stream=decision.stream,
        native=outcome is not None and outcome.native and target is not None and target.format in NATIVE_FORMATS,
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
        first_byte_ms=present_ms(common, "time_to_first_downstream_tx_byte"),
        gateway_latency_ms=decision.decided_us / 1000 if decision.decided_us else None,
        response_bytes=entry.response.response_body_bytes,
        details=entry.response.response_code_details,
        traceparent=decision.traceparent,
        steps_us=msgspec.json.encode(decision.steps_us).decode() if decision.steps_us else "",
        cache=decision.cache,
        saved_tokens=outcome.saved_tokens if outcome else 0,
        saved_nano_usd=outcome.saved_nano_usd if outcome and cache_hit else 0,
    )


def verdict_on_answer(entry: pb.HTTPAccessLogEntry, row: AuditRow) -> Verdict | None:
    """What the request of `row` says of the attempt that answered it with 200. None: nothing against it.

    A native stream nobody read: one that ended with neither a finish_reason nor usage had an error event, or no end.
    """
    outcome = Said.of(entry).outcome if row.status == "failed" else None
    if outcome is None:  # the worker was killed: not the provider's doing
        return None
    return _VERDICTS.get(outcome.error_code or (None if row.finish_reason else row.error_code))


def _facts(entry: pb.HTTPAccessLogEntry, said: Said, decision: Decision) -> Facts:
    outcome, flags = said.outcome, set_flags(entry.common_properties.response_flags)
    attempts = outcome.attempts if outcome else entry.common_properties.upstream_request_attempt_count
    client_left = any(flag in CLIENT_LEFT for flag in flags)
    return Facts(
        http_status=entry.response.response_code.value,
        error_code=outcome.error_code if outcome else None,
        attempts=attempts,
        target=outcome.attempt if outcome else max(1, attempts),
        stream=decision.stream,
        whole=outcome is not None and (outcome.complete or _ended(said, client_left)),
        client_left=client_left,
        broken=_broken(flags, outcome is not None and outcome.native),
        flags=flags,
    )


def _ended(said: Said, client_left: bool) -> bool:
    """Whether a native stream that was not cut came to its end. Not every provider tells usage in a stream; a client
    that leaves behind the `finish_reason` may have left before the usage."""
    told = said.native_usage is not None or (said.native_finish_reason is not None and not client_left)
    return told and not said.cut


def _billed(
    entry: pb.HTTPAccessLogEntry, said: Said, decision: Decision, facts: Facts, estimate: EstimateOutput
) -> tuple[Usage, bool]:
    """What the provider bills, and whether that is our estimate. An answer that is an error is billed by none."""
    usage = said.usage
    if usage is not None:
        return usage, False
    target, left_early = _answering(decision, facts), facts.http_status == 0 and facts.client_left
    if target is None or not (facts.http_status == 200 or left_early or _cut(entry, said, facts.flags)):
        return Usage(), False
    return _from_bytes(decision, target, _came_bytes(entry, said.outcome), estimate), True


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


def _cut(entry: pb.HTTPAccessLogEntry, said: Said, flags: tuple[str, ...]) -> bool:
    """Whether a provider answered, but what came was held back and the client told of an error: the worker died before
    it could tell what it is, or the answer broke off or fell silent before it was whole."""
    details = entry.response.response_code_details
    if said.outcome is not None and said.outcome.unread_bytes is not None:
        return True
    if details.startswith(WORKER_GONE):
        return said.outcome is None and entry.common_properties.upstream_request_attempt_count > 0
    silent = any(flag in STREAM_TIMED_OUT for flag in flags)
    return details.startswith(_BEGAN) or (silent and entry.common_properties.upstream_wire_bytes_received > 0)


def _came_bytes(entry: pb.HTTPAccessLogEntry, outcome: Outcome | None) -> int:
    """How much of an answer there was that was cut."""
    if outcome is not None and outcome.unread_bytes is not None:
        return outcome.unread_bytes
    status = entry.response.response_code.value
    if status == 200:
        return entry.response.response_body_bytes
    # What was sent is Envoy's own; headers are about what the worker would have added.
    return entry.common_properties.upstream_wire_bytes_received if status else 0


def _from_bytes(decision: Decision, target: Target, came_bytes: int, estimate: EstimateOutput) -> Usage:
    """The estimate of an answer that was cut. One that had not begun is billed for its input at least."""
    output, reasoning = estimate(target, decision.stream, came_bytes) if came_bytes else (0, 0)
    counted = decision.input_tokens if decision.counted_tokens is None else decision.counted_tokens
    return Usage(input_tokens=counted, output_tokens=output, reasoning_tokens=reasoning)


def _broken(flags: tuple[str, ...], native: bool) -> bool:
    """What the worker read to its end was not broken off by the provider, whatever came of an earlier attempt."""
    return any(flag in STREAM_TIMED_OUT or (native and flag in BROKE_OFF) for flag in flags)


def _error_code(status: Status, facts: Facts) -> str | None:
    if facts.error_code is not None:
        return facts.error_code
    if status not in ("failed", "refused"):
        return None
    if facts.http_status >= 400:
        other = "internal_error" if facts.http_status >= 500 else "invalid_request_error"
        return _CODE_OF_STATUS.get(facts.http_status, other)
    return "provider_timeout" if any(flag in TIMED_OUT for flag in facts.flags) else "provider_error"


def _answering(decision: Decision, facts: Facts) -> Target | None:
    """The target whose answer it is. None: nobody was asked."""
    return _target(decision, facts.target) if facts.attempts else None


def _target(decision: Decision, index: int) -> Target | None:
    """The `index`-th target; a number beyond them is the last one's."""
    return decision.targets[min(index, len(decision.targets)) - 1] if decision.targets else None
