"""Metric families as OpenTelemetry's SDK has them, sent by its exporter. Imported when there is a collector to send to.

In: what `/metrics` shows, as families. Out: whether the collector took it. Blocks. Called by `otlp`.
"""

from collections.abc import Sequence
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
from extproc.settings import Telemetry
from extproc.telemetry.otlp import TIMEOUT_S, resource

_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE


def export(telemetry: Telemetry, families: Sequence[Family], began_s: float, now_s: float) -> bool:
    """Whether they were taken. `began_s`: when their numbers began, in s since the epoch, as is `now_s`."""
    data = metrics_data(families, telemetry, began_s, now_s)
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
