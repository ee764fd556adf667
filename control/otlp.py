"""Metric families -> an OTLP collector, every `telemetry.metrics_interval`, by OpenTelemetry's own exporter.

In: what `/metrics` shows, as families. Out: the same numbers at the collector: cumulative, since the journal began. A
collector that is away misses numbers, not requests: what comes next time has them in it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from control.families import Family, Sample
from extproc.errors import GatewayError
from extproc.process.beat import beat
from extproc.settings import Telemetry

log = logging.getLogger(__name__)

Read = Callable[[], Awaitable[tuple[Sequence[Family], float]]]  # and when their numbers began, in s since the epoch

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
        return await asyncio.to_thread(_export, telemetry, families, began_s)

    def _report(self, sent: bool) -> None:
        self.failures += not sent
        if not sent and not self._failing:
            log.warning("collector does not take metrics")
        if sent and self._failing:
            log.info("collector takes metrics again")
        self._failing = not sent


def _export(telemetry: Telemetry, families: Sequence[Family], began_s: float) -> bool:
    from control.otlp_export import export  # noqa: PLC0415 - the SDK, only where there is a collector

    return export(telemetry, families, began_s, time.time())


def failures(traces: int, metrics: int) -> Family:
    """How often the collector took nothing. Both series are there from the start, so that the first one counts."""
    return Family(
        name="gateway.otlp.failures",
        kind="counter",
        text="Batches of traces, and readings of metrics, that the collector did not take; traces are tried again.",
        samples=[Sample({"signal": "traces"}, traces), Sample({"signal": "metrics"}, metrics)],
    )
