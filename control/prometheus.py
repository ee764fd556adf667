"""Metric families -> Prometheus text.

In: families. Out: text in the exposition format 0.0.4. A family without samples is told too, so that whoever looks for
a metric finds that it exists.
Source: prometheus.io/docs/instrumenting/exposition_formats.
"""

from collections.abc import Iterable, Iterator

from control.families import Distribution, Family, Labels

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def text(families: Iterable[Family]) -> str:
    """The whole text."""
    return "".join(f"{line}\n" for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    """In this format a counter's family is named with its suffix."""
    name = f"{family.prometheus_name}_total" if family.kind == "counter" else family.prometheus_name
    yield f"# HELP {name} {_escaped_text(family.text)}"
    yield f"# TYPE {name} {family.kind}"
    for sample in family.samples:
        yield f"{name}{_labels(sample.labels)} {_number(sample.value)}"
    for distribution in family.distributions:
        yield from _buckets(name, family, distribution)


def _buckets(name: str, family: Family, distribution: Distribution) -> Iterator[str]:
    so_far = 0
    for bound, count in zip((*family.bounds, float("inf")), distribution.counts, strict=True):
        so_far += count
        yield f"{name}_bucket{_labels({**distribution.labels, 'le': _number(bound)})} {so_far}"
    yield f"{name}_sum{_labels(distribution.labels)} {_number(distribution.total)}"
    yield f"{name}_count{_labels(distribution.labels)} {so_far}"


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if float(value).is_integer() else repr(value)


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{_name(name)}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _name(label: str) -> str:
    return label.replace(".", "_")


def _escaped(value: str) -> str:
    return _escaped_text(value).replace('"', r"\"")


def _escaped_text(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n")
