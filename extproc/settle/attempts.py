"""Access log entry -> attempt row: one provider asked once, and what that says about it. Pure.

In: an entry of a provider's cluster. Out: the row, or None. Called by the intake for every such entry. What the request
says later of an answer of 200 is `settle.verdict_on_answer`.
"""

from typing import Final

from extproc.adapters.failures import retry_after_s
from extproc.settle.entries import BROKE_OFF, TIMED_OUT, UNREACHABLE, duration_ms, present_ms, seconds, set_flags
from extproc.settle.rows import AttemptRow, Verdict
from extproc.wire import MODEL_ROUTE_PREFIX, provider_cluster
from protos.gen import accesslog_pb2 as pb

_OURS_REFUSED: Final = (401, 402, 403)  # the operator's credential or balance
_STREAMS: Final = ("text/event-stream", "application/vnd.amazon.eventstream")
_PROVIDER_PREFIX: Final = provider_cluster("")


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
    flags = set_flags(common.response_flags)
    status = entry.response.response_code.value
    started_s = seconds(common.start_time)
    ended_s = started_s + duration_ms(common.duration) / 1000
    sent_ms = present_ms(common, "time_to_first_upstream_tx_byte")
    headers = entry.response.response_headers
    return AttemptRow(
        request_id=request_id,
        provider=provider,
        model=common.route_name.removeprefix(MODEL_ROUTE_PREFIX),
        started_at=started_s,
        verdict=verdict_of(status, flags),
        status=status or None,
        flags=",".join(flags),
        first_byte_ms=_since(sent_ms, present_ms(common, "time_to_first_upstream_rx_byte")),
        total_ms=_since(sent_ms, present_ms(common, "time_to_last_upstream_rx_byte")),
        stream=headers.get("content-type", "").startswith(_STREAMS),
        retry_after_s=retry_after_s(headers, ended_s) if status == 429 else None,
        at=ended_s,
    )


def verdict_of(status: int, flags: tuple[str, ...]) -> Verdict:
    """What an attempt says about its provider. A refusal of the client's own input is an answer like another."""
    if status and flags == ("upstream_request_timeout",):
        flags = ()  # late, but it came: the deadline only started a race
    if any(flag in TIMED_OUT or flag in BROKE_OFF or flag in UNREACHABLE for flag in flags):
        return "error"
    if status == 0:
        return "abandoned"  # the client left before there was an answer
    if status == 429:
        return "rate_limited"
    return "error" if status >= 500 or status in (408, 424) or status in _OURS_REFUSED else "ok"


def _since(start_ms: float | None, end_ms: float | None) -> float | None:
    return None if start_ms is None or end_ms is None else max(0.0, end_ms - start_ms)
