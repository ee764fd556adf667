"""Metrics as data: families of samples, before anyone writes them down.

In: made by whoever knows something (the journal's sums, the ledger, providers' health). Out: rendered as Prometheus
text, or sent by OTLP. Names and units are OpenTelemetry's (`gen_ai.server.request.duration`, `s`); Prometheus's follow
from them, by OpenTelemetry's own rules.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

Kind = Literal["counter", "gauge", "histogram"]
Labels = Mapping[str, str]

_UNITS: Final = {"s": "seconds", "ms": "milliseconds", "By": "bytes", "%": "percent"}


class Sample(msgspec.Struct, frozen=True):
    """One number of a counter or gauge."""

    labels: Labels
    value: float


class Distribution(msgspec.Struct, frozen=True):
    """One histogram: how many fell into each bucket (one more than there are bounds), and their sum."""

    labels: Labels
    counts: Sequence[int]
    total: float

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """A metric with all its samples. `bounds`: of a histogram's buckets, without infinity."""

    name: str  # dotted, OpenTelemetry's
    kind: Kind
    text: str
    unit: str = ""  # UCUM; `{thing}` for a number of things
    samples: Sequence[Sample] = ()
    distributions: Sequence[Distribution] = ()
    bounds: Sequence[float] = ()

    @property
    def prometheus_name(self) -> str:
        """The name in Prometheus, without the suffix of a counter."""
        base = re.sub(r"[^a-zA-Z0-9_]", "_", self.name)
        unit = "" if self.unit.startswith("{") else _UNITS.get(self.unit, self.unit.lower())
        return base if not unit or base.endswith(f"_{unit}") else f"{base}_{unit}"
