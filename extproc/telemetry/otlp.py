"""Spans -> an OTLP collector, over HTTP, by OpenTelemetry's own exporter.

In: spans. Out: whether the collector took them. Blocks, for at most the timeout: called from a thread that waits for
nobody else. The only file of the data plane that knows the SDK.
"""

from collections.abc import Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from extproc.settings import Telemetry
from extproc.telemetry.spans import Span

_SCOPE: Final = InstrumentationScope("llm-gateway")
_KINDS: Final = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


TIMEOUT_S: Final = 5.0  # of one request to the collector, repetitions included


def resource(telemetry: Telemetry) -> Resource:
    """Who sends: this service; OTEL_RESOURCE_ATTRIBUTES adds to it."""
    return Resource.create({"service.name": telemetry.service_name})


class SpanSender:
    """To the collector that `telemetry` names, which must have an endpoint."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._resource = resource(telemetry)
        self._exporter = OTLPSpanExporter(
            endpoint=f"{telemetry.otlp_endpoint}/v1/traces",
            headers=telemetry.otlp_headers,
            timeout=TIMEOUT_S,
            compression=Compression.Gzip,
        )

    def send(self, spans: Sequence[Span]) -> bool:
        """Whether the collector took all of them."""
        readable = [self._readable(span) for span in spans]
        return self._exporter.export(readable) is SpanExportResult.SUCCESS

    def close(self) -> None:
        """Give up what is being sent."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _readable(self, span: Span) -> ReadableSpan:
        parent = span.parent_span_id
        return ReadableSpan(
            name=span.name,
            context=_context(span.trace_id, span.span_id, remote=False),
            parent=_context(span.trace_id, parent, remote=span.kind == "server") if parent else None,
            resource=self._resource,
            attributes=span.attributes,
            kind=_KINDS[span.kind],
            instrumentation_scope=_SCOPE,
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
            start_time=span.start_ns,
            end_time=span.end_ns,
        )


def _context(trace_id: str, span_id: str, *, remote: bool) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), remote, _SAMPLED)
