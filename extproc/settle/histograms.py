"""What an audit row adds to the histograms: OpenTelemetry's GenAI metrics, and the gateway's own overhead.

In: audit rows. Out: counts per bucket, which the journal keeps in the transaction that writes the rows, so that the
metrics always agree with them. Read by the metrics endpoint.
Source: the GenAI semantic conventions for metrics, whose bucket boundaries these are.
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from extproc.settle.rows import AuditRow

Detail = Literal["gen_ai.token.type", "status", "stage"]
_SERVED: Final = ("success", "fallback")


class Histogram(msgspec.Struct, frozen=True):
    """A metric: its name and unit as OpenTelemetry has them, the upper bounds of its buckets (the last is infinity),
    and the one label that it has besides team, model and provider."""

    name: str
    unit: str
    text: str
    bounds: tuple[float, ...]
    detail: Detail


TOKEN_USAGE: Final = Histogram(
    "gen_ai.client.token.usage",
    "{token}",
    "Tokens of a request, as billed.",
    tuple(float(4**power) for power in range(14)),
    "gen_ai.token.type",
)
DURATION: Final = Histogram(
    "gen_ai.server.request.duration",
    "s",
    "Time from a request's arrival to the end of its answer.",
    tuple(round(0.01 * 2**power, 2) for power in range(14)),
    "status",
)
FIRST_TOKEN: Final = Histogram(
    "gen_ai.server.time_to_first_token",
    "s",
    "Time from a request's arrival to the first byte of its streamed answer.",
    (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    "status",
)
OUTPUT_TOKEN: Final = Histogram(
    "gen_ai.server.time_per_output_token",
    "s",
    "Time per output token after the first, of streamed answers.",
    (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
    "status",
)
OVERHEAD: Final = Histogram(
    "gateway.overhead",
    "s",
    "The gateway's own time in a request, by stage.",
    (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
    "stage",
)
ALL: Final = (TOKEN_USAGE, DURATION, FIRST_TOKEN, OUTPUT_TOKEN, OVERHEAD)


def observed(row: AuditRow) -> Iterator[tuple[tuple[object, ...], tuple[float, ...]]]:
    """What `row` adds: metric, team, model, provider, detail and index of the bucket; a count and a total."""
    who = (row.team_id, row.model_used or row.model_routed, row.provider_used or "")
    for histogram, detail, value in _observed(row):
        yield (histogram.name, *who, detail, bisect_left(histogram.bounds, value)), (1, value)


def _observed(row: AuditRow) -> Iterator[tuple[Histogram, str, float]]:
    yield TOKEN_USAGE, "input", row.input_tokens
    yield TOKEN_USAGE, "output", row.output_tokens
    yield DURATION, row.status, row.latency_ms / 1000
    if row.gateway_latency_ms is not None:
        yield OVERHEAD, "decide", row.gateway_latency_ms / 1000
    if row.stream and row.status in _SERVED and row.first_byte_ms is not None:
        yield FIRST_TOKEN, row.status, row.first_byte_ms / 1000
        if row.output_tokens > 1:
            rest_ms = max(0.0, row.latency_ms - row.first_byte_ms)
            yield OUTPUT_TOKEN, row.status, rest_ms / 1000 / (row.output_tokens - 1)
