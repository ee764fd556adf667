"""Metric families -> an OTLP collector, every `telemetry.metrics_interval`, by OpenTelemetry's own exporter.

In: what `/metrics` shows, as families. Out: the same numbers at the collector: cumulative, since the journal began. A
collector that is away misses numbers, not requests: what comes next time has them in it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from control.families import Distribution, Family, Sample
from extproc.beat import beat
from extproc.errors import GatewayError
from extproc.settings import Telemetry
from extproc.telemetry.otlp import TIMEOUT_S, resource

log = logging.getLogger(__name__)

Read = Callable[[], Awaitable[tuple[Sequence[Family], float]]]  # and when their numbers began, in s since the epoch

_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE
_LOOK_S: Final = 1.0  # at the configuration, for a collector that is named later


class MetricsSender:
    """`telemetry`: the configuration now. `failures`: how often the collector did not take them."""

    def __init__(self, read: Read, telemetry: Callable[[], Telemetry]) -> None:
        self._read = read
        self._telemetry = telemetry
        self._failing = False
        self.failures = 0

    async def run(self) -> None:
        """Send, until cancelled."""
        last = time.monotonic()
        while True:
            await beat(_LOOK_S)
            telemetry = self._telemetry()
            if telemetry.otlp_endpoint is None or time.monotonic() - last < telemetry.metrics_interval:
                continue
            last = time.monotonic()
            self._report(await self._send(telemetry))

    async def _send(self, telemetry: Telemetry) -> bool:
        try:
            families, began_s = await self._read()
        except GatewayError:
            return False
        data = metrics_data(families, telemetry, began_s, time.time())
        return await asyncio.to_thread(_export, telemetry, data)

    def _report(self, sent: bool) -> None:
        self.failures += not sent
        if not sent and not self._failing:
            log.warning("collector does not take metrics")
        if sent and self._failing:
            log.info("collector takes metrics again")
        self._failing = not sent


def _export(telemetry: Telemetry, data: MetricsData) -> bool:
    exporter = OTLPMetricExporter(
        endpoint=f"{telemetry.otlp_endpoint}/v1/metrics",
        headers=telemetry.otlp_headers,
        timeout=TIMEOUT_S,
        compression=Compression.Gzip,
    )
    try:
        return exporter.export(data) is MetricExportResult.SUCCESS
    finally:
        exporter.shutdown()


def failures(traces: int, metrics: int) -> Family:
    """How often the collector took nothing. Both series are there from the start, so that the first one counts."""
    return Family(
        name="gateway.otlp.failures",
        kind="counter",
        text="Batches of traces, and readings of metrics, that the collector did not take; traces are tried again.",
        samples=[Sample({"signal": "traces"}, traces), Sample({"signal": "metrics"}, metrics)],
    )


def metrics_data(families: Sequence[Family], telemetry: Telemetry, began_s: float, now_s: float) -> MetricsData:
    """The families as the SDK has them."""
    start_ns, now_ns = round(began_s * 1e9), round(now_s * 1e9)
    metrics = [_metric(family, start_ns, now_ns) for family in families if family.samples or family.distributions]
    scope = ScopeMetrics(scope=InstrumentationScope("llm-gateway"), metrics=metrics, schema_url="")
    return MetricsData([ResourceMetrics(resource=resource(telemetry), scope_metrics=[scope], schema_url="")])


def _metric(family: Family, start_ns: int, now_ns: int) -> Metric:
    data: Sum | Gauge | Histogram
    if family.kind == "histogram":
        points = [_distribution(each, family, start_ns, now_ns) for each in family.distributions]
        data = Histogram(data_points=points, aggregation_temporality=_CUMULATIVE)
    elif family.kind == "counter":
        numbers = [_number(sample, start_ns, now_ns) for sample in family.samples]
        data = Sum(data_points=numbers, aggregation_temporality=_CUMULATIVE, is_monotonic=True)
    else:
        data = Gauge(data_points=[_number(sample, None, now_ns) for sample in family.samples])
    return Metric(name=family.name, description=family.text, unit=family.unit, data=data)


def _number(sample: Sample, start_ns: int | None, now_ns: int) -> NumberDataPoint:
    return NumberDataPoint(dict(sample.labels), start_ns, now_ns, sample.value)  # type: ignore[arg-type]  # None: a gauge


def _distribution(each: Distribution, family: Family, start_ns: int, now_ns: int) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=dict(each.labels),
        start_time_unix_nano=start_ns,
        time_unix_nano=now_ns,
        count=each.count,
        sum=each.total,
        bucket_counts=list(each.counts),
        explicit_bounds=list(family.bounds),
        min=None,  # type: ignore[arg-type]  # not kept
        max=None,  # type: ignore[arg-type]
    )
