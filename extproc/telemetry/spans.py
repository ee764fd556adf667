"""What is written down of a request -> its trace. Pure.

In: the audit row, its attempts, when it was settled. Out: spans:

    chat {model}                 server: from the request's arrival to the end of its answer
      ├─ decide                  internal: the gateway's own time, with a child for each step that was timed
      ├─ chat {provider}         client: one an attempt upstream
      └─ settle                  internal: from the end of the answer until the ledger had been charged

Names and attributes are those of OpenTelemetry's conventions for GenAI and HTTP; what they have no word for is
`gateway.*`. No message is among them unless `telemetry.content` is on, and no key ever.
Source: opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec

from extproc.settle.rows import AttemptRow, AuditRow
from extproc.telemetry.content import Content
from extproc.telemetry.trace_context import Context, context, span_id

Kind = Literal["server", "client", "internal"]
Value = str | int | float | bool

# What the conventions call the providers whose formats we speak.
WELL_KNOWN: Final = {
    "openai": "openai",
    "azure": "azure.ai.openai",
    "anthropic": "anthropic",
    "google": "gcp.gemini",
    "bedrock": "aws.bedrock",
}
_ENDED_BADLY: Final = ("failed", "cancelled", "refused")


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One span. Times in nanoseconds since the epoch; `error`: why it ended badly, None if it did not."""

    name: str
    kind: Kind
    trace_id: str
    span_id: str
    parent_span_id: str | None
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Value]
    error: str | None = None


class Told(msgspec.Struct, frozen=True):
    """Everything that is known of one finished request."""

    row: AuditRow
    attempts: Sequence[AttemptRow] = ()
    settled_at: float | None = None  # seconds since the epoch
    content: Content | None = None  # where telemetry.content is on


def trace(told: Told, formats: Mapping[str, str]) -> list[Span]:
    """The spans of a request, the outermost first; none if the client said that its trace is not recorded.

    `formats`: of each provider in the configuration.
    """
    place = context(told.row.request_id, told.row.traceparent)
    if not place.sampled:
        return []
    root = _root(told.row, told.content, place, formats)
    return [root, *_decision(told.row, root), *_attempts(told, root, formats), *_settlement(told, root)]


def _root(row: AuditRow, content: Content | None, place: Context, formats: Mapping[str, str]) -> Span:
    return Span(
        name=f"chat {row.model_requested}" if row.model_requested else "chat",
        kind="server",
        trace_id=place.trace_id,
        span_id=span_id(row.request_id, "request"),
        parent_span_id=place.parent_span_id,
        start_ns=_ns(row.received_at),
        end_ns=_ns(row.completed_at),
        attributes=_without_none(
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": _provider(row.provider_used, formats),
                "gen_ai.request.model": row.model_requested or None,
                "gen_ai.response.model": row.model_used,
                "gen_ai.response.finish_reasons": row.finish_reason,
                "gen_ai.usage.input_tokens": row.input_tokens,
                "gen_ai.usage.output_tokens": row.output_tokens,
                "gen_ai.usage.cache_read.input_tokens": row.cached_tokens or None,
                "http.request.method": "POST",
                "http.response.status_code": row.http_status,
                "error.type": row.error_code or (row.status if row.status in _ENDED_BADLY else None),
                "gateway.request_id": row.request_id,
                "gateway.team": row.team_id,
                "gateway.provider": row.provider_used,
                "gateway.status": row.status,
                "gateway.routing_decision": row.routing_decision or None,
                "gateway.attempts": row.attempts,
                "gateway.cache_hit": row.cache_hit,
                "gateway.stream": row.stream,
                "gateway.tokens_estimated": row.estimated,
                "gateway.cost_usd": None if row.cost_nano_usd is None else row.cost_nano_usd / 1e9,
                "gateway.time_to_first_byte_ms": row.first_byte_ms,
                "gen_ai.input.messages": (content and content.input_messages) or None,
                "gen_ai.output.messages": (content and content.output_messages) or None,
            }
        ),
        # What the client did, or sent, is no fault of the server's.
        error=row.error_code or row.status if row.status == "failed" else None,
    )


def _decision(row: AuditRow, root: Span) -> Iterator[Span]:
    """The gateway's own time, laid from the request's arrival on, step after step."""
    if row.gateway_latency_ms is None:
        return
    end_ns = root.start_ns + round(row.gateway_latency_ms * 1e6)
    decide = _child(root, row.request_id, "decide", root.start_ns, end_ns)
    yield decide
    at_ns = root.start_ns
    for name, took_us in steps_of(row).items():
        yield _child(decide, row.request_id, name, at_ns, at_ns + took_us * 1000)
        at_ns += took_us * 1000


def steps_of(row: AuditRow) -> dict[str, int]:
    """The steps of the decision in their order, each with its microseconds."""
    return msgspec.json.decode(row.steps_us, type=dict[str, int]) if row.steps_us else {}


def _attempts(told: Told, root: Span, formats: Mapping[str, str]) -> Iterator[Span]:
    for number, attempt in enumerate(told.attempts, start=1):
        bad = attempt.verdict in ("error", "rate_limited")
        yield Span(
            name=f"chat {attempt.provider}",
            kind="client",
            trace_id=root.trace_id,
            span_id=span_id(told.row.request_id, f"attempt {number}"),
            parent_span_id=root.span_id,
            start_ns=_ns(attempt.started_at),
            end_ns=_ns(attempt.at),
            attributes=_without_none(
                {
                    "gen_ai.operation.name": "chat",
                    "gen_ai.provider.name": _provider(attempt.provider, formats),
                    "http.response.status_code": attempt.status,
                    "http.request.resend_count": number - 1 or None,
                    "error.type": (attempt.flags or str(attempt.status or attempt.verdict)) if bad else None,
                    "gateway.provider": attempt.provider,
                    "gateway.time_to_first_byte_ms": attempt.first_byte_ms,
                }
            ),
            error=(attempt.flags or attempt.verdict) if bad else None,
        )


def _settlement(told: Told, root: Span) -> Iterator[Span]:
    if told.settled_at is not None:
        end_ns = max(root.end_ns, _ns(told.settled_at))
        yield _child(root, told.row.request_id, "settle", root.end_ns, end_ns)


def _child(parent: Span, request_id: str, name: str, start_ns: int, end_ns: int) -> Span:
    return Span(
        name=name,
        kind="internal",
        trace_id=parent.trace_id,
        span_id=span_id(request_id, name),
        parent_span_id=parent.span_id,
        start_ns=start_ns,
        end_ns=end_ns,
        attributes={},
    )


def _provider(name: str | None, formats: Mapping[str, str]) -> str | None:
    return WELL_KNOWN.get(formats.get(name, ""), name) if name else None


def _without_none(values: Mapping[str, Value | None]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if value is not None}


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
