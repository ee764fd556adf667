"""Runs -> what is read: medians over rounds, what was added to Envoy alone, and whether the targets were met.

In: the runs of `bench.runs`. Out: a table as text. Pure; called by `bench.__main__`.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from bench.runs import Latency, Run
from bench.scenarios import CHUNKS, SCENARIOS, TARGETS, Scenario, TargetName

NOT_THE_GATEWAY = ("provider", "envoy")
_KINDS = ("p50", "p90", "p99")


class Target(msgspec.Struct, frozen=True):
    """A figure to reach. `value` None: not measured in this run."""

    text: str
    value: float | None
    limit: float
    unit: str
    exclusive: bool = False  # must be below the limit, not at it

    @property
    def met(self) -> bool | None:
        """Whether it was reached; None if it was not measured."""
        if self.value is None:
            return None
        return self.value < self.limit if self.exclusive else self.value <= self.limit


def text(runs: Sequence[Run], idle_cores: Mapping[str, float]) -> str:
    """The whole report."""
    blocks = [_scenario(item, of) for item in SCENARIOS if (of := [r for r in runs if r.scenario == item.name])]
    blocks += [_memory(runs), _idle(idle_cores), _noise(runs), _targets(targets(runs))]
    return "\n\n".join(block for block in blocks if block)


def targets(runs: Sequence[Run]) -> list[Target]:
    """The figures to reach, with what this run found."""
    plain, stream = _of(runs, "plain-167"), _of(runs, "stream-167") or _of(runs, "stream-20")
    translated = _of(runs, "translated-stream-20")
    added = added_ms(plain, "gateway", "total_ms")
    long = [run for run in runs if run.round == 0]
    whole = "whole answers at 167/s, added to Envoy alone"
    return [
        Target(f"{whole}, p50", _middle(added, "p50") if added else None, 2.5, "ms", exclusive=True),
        Target(f"{whole}, p99", _middle(added, "p99") if added else None, 10, "ms", exclusive=True),
        Target("CPU of the gateway without Envoy, per whole answer", _own_cpu_us(plain), 800, "µs"),
        Target("CPU of the gateway without Envoy, per stream of 200 chunks", _own_cpu_us(stream), 1000, "µs"),
        Target("CPU of the workers, per chunk of a translated stream", _per_chunk(translated), 60, "µs"),
        Target("CPU of the workers, per request of 10 MiB", _of_workers(_of(runs, "body-10m")), 30_000, "µs"),
        Target(
            f"errors in {long[0].seconds if long else 60:g} s of 167 streams/s of 200 chunks",
            float(sum(sum(run.errors.values()) for run in long)) if long else None,
            0,
            "",
        ),
    ]


def added_ms(runs: Iterable[Run], target: TargetName, what: str) -> list[Latency] | None:
    """What `target` added to Envoy alone, round by round: differences of percentiles. None without a pair."""
    by_target = {(run.round, run.target): getattr(run, what) for run in runs}
    pairs = [
        (value, by_target.get((number, "envoy")))
        for (number, name), value in by_target.items()
        if name == target and number
    ]
    found = [
        Latency(*(getattr(value, kind) - getattr(base, kind) for kind in _KINDS))
        for value, base in pairs
        if value and base
    ]
    return found or None


def _of(runs: Iterable[Run], scenario: str) -> list[Run]:
    return [run for run in runs if run.scenario == scenario]


def _middle(found: Iterable[Latency], kind: str) -> float:
    return float(statistics.median(getattr(item, kind) for item in found))


def _own_cpu_us(runs: Iterable[Run]) -> float | None:
    sums = [
        sum(value for role, value in run.cpu_us.items() if role not in NOT_THE_GATEWAY)
        for run in runs
        if run.target == "gateway" and run.round
    ]
    return statistics.median(sums) if sums else None


def _of_workers(runs: Iterable[Run]) -> float | None:
    sums = [
        sum(value for role, value in run.cpu_us.items() if role.startswith("worker"))
        for run in runs
        if run.target == "gateway" and run.round
    ]
    return statistics.median(sums) if sums else None


def _per_chunk(runs: Iterable[Run]) -> float | None:
    each = _of_workers(runs)
    return None if each is None else each / CHUNKS


def _scenario(scenario: Scenario, runs: Sequence[Run]) -> str:
    rounds = max(run.round for run in runs)
    lines = [f"{scenario.name}: {scenario.title} ({rounds} rounds of {runs[0].seconds:g} s)"]
    head = f"{'':9}{'sent':>7}{'errors':>7}{'others':>8}  "
    for title in ("whole answer, ms", "first byte, ms", "added to Envoy alone, ms"):
        head += f"| {title:<26}"
    lines += [head, f"{'':23}{'cores':>8}  " + f"| {'p50':>8}{'p90':>8}{'p99':>8}  " * 3]
    for target in TARGETS:
        of = [run for run in runs if run.target == target and run.round]
        lines += [_row(target, of, runs)] if of else []
    long = [run for run in runs if run.round == 0]
    for run in long:
        lines.append(
            f"{f'{run.seconds:g} s':9}{_counts([run])}  {_latencies([run.total_ms])}{_latencies([run.first_byte_ms])}"
        )
    lines += _cpu(runs)
    lines += _errors(runs)
    return "\n".join(lines)


def _row(target: TargetName, of: Sequence[Run], runs: Sequence[Run]) -> str:
    added = "" if target in ("direct", "envoy") else _latencies(added_ms(runs, target, "total_ms") or [])
    total, first = _latencies([run.total_ms for run in of]), _latencies([run.first_byte_ms for run in of])
    return f"{target:9}{_counts(of)}  {total}{first}{added}"


def _counts(runs: Sequence[Run]) -> str:
    busy = statistics.median(run.others_cores for run in runs)
    return f"{sum(run.sent for run in runs):7}{sum(sum(run.errors.values()) for run in runs):7}{busy:8.2f}"


def _latencies(found: Iterable[Latency | None]) -> str:
    measured = [item for item in found if item is not None]
    if not measured:
        return f"| {'-':>24}  "
    return "| " + "".join(f"{_middle(measured, kind):8.2f}" for kind in _KINDS) + "  "


def _cpu(runs: Sequence[Run]) -> list[str]:
    """CPU per request of each process, for each target."""
    lines = []
    for target in TARGETS:
        of = [run.cpu_us for run in runs if run.target == target and run.round]
        if not of:
            continue
        roles = sorted({role for cpu in of for role in cpu}, key=lambda role: (role not in NOT_THE_GATEWAY, role))
        parts = [f"{role} {statistics.median(cpu.get(role, 0.0) for cpu in of):.0f}" for role in roles]
        own = _own_cpu_us(runs) if target == "gateway" else None
        lines.append(f"CPU µs per request, {target}: {', '.join(parts)}" + (f"; gateway {own:.0f}" if own else ""))
    return lines


def _errors(runs: Sequence[Run]) -> list[str]:
    return [
        f"ERRORS at {run.target}, {f'round {run.round}' if run.round else 'the long run'}: "
        + ", ".join(f"{count} x {kind}" for kind, count in sorted(run.errors.items()))
        for run in runs
        if run.errors
    ]


def _memory(runs: Sequence[Run]) -> str:
    of = [run.rss_bytes for run in runs if run.target == "gateway"]
    roles = sorted({role for rss in of for role in rss if role != "provider"})
    parts = [f"{role} {max(rss.get(role, 0) for rss in of) / 1e6:.0f}" for role in roles]
    return f"memory (RSS, highest seen, MB): {', '.join(parts)}" if parts else ""


def _idle(cores: Mapping[str, float]) -> str:
    parts = [f"{role} {1000 * used:.0f}" for role, used in cores.items() if role != "provider"]
    return f"idle gateway, CPU ms per second: {', '.join(parts)}" if parts else ""


def _noise(runs: Sequence[Run]) -> str:
    busy = [run.others_cores for run in runs]
    late = [run.late_ms.p99 for run in runs if run.late_ms]
    if not busy or not late:
        return ""
    return (
        f"noise: others kept {statistics.median(busy):.2f} cores busy (at most {max(busy):.2f}); "
        f"the client sent late by {statistics.median(late):.2f} ms at p99 (at most {max(late):.2f})"
    )


def _targets(found: Iterable[Target]) -> str:
    words = {True: "met", False: "NOT MET", None: "not measured"}
    lines = ["targets, in this run"]
    for item in found:
        value = "-" if item.value is None else f"{item.value:.2f}" if item.unit == "ms" else f"{item.value:.0f}"
        bound = "<" if item.exclusive else "<="
        lines.append(f"  {words[item.met]:13}{item.text}: {value} ({bound} {item.limit:g} {item.unit}".rstrip() + ")")
    return "\n".join(lines)
