"""`gateway export`: audit rows to a file, as JSON lines or Parquet, as many as there are.

In: pages of `GET /v1/requests`, so a key exports what it may see, from either audit store. Out: a row for each request,
newest first, with the API's fields. One page is in memory at a time; a file is there whole or not at all. Lists and
objects are JSON texts in Parquet.
"""

# ruff: noqa: PLC0415 - pyarrow is large, and an extra

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final, Protocol

import click
import msgspec
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from control.commands.client import Client, CommandError
from control.commands.options import asks
from extproc.settle.rows import AuditRow

_ALL = sys.maxsize
_MOMENTS = ("received_at", "completed_at")
_JSON = ("steps_us", "attempt_log")
# Shown otherwise than they are kept; `requests.present` says how.
_SHOWN: dict[str, Any] = {
    "cost_usd": float | None,
    "saved_usd": float | None,
    "price_known": bool,
    "trace_id": str,
    "attempt_log": str,
}
_KEPT_ONLY = ("cost_nano_usd", "saved_nano_usd", "traceparent")


class Sink(Protocol):
    """Where rows go."""

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Write a page."""

    def close(self) -> None:
        """No more come."""


class JsonLines:
    """A JSON object a line."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Write a page."""
        self._file.write(msgspec.json.Encoder().encode_lines(rows))

    def close(self) -> None:
        """Out of our buffer."""
        self._file.flush()


class Parquet:
    """Row groups of a page each; zstd. Raises CommandError where pyarrow is not installed."""

    def __init__(self, file: IO[bytes]) -> None:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError:
            raise CommandError("Parquet needs pyarrow: pip install 'llm-gateway[parquet]'") from None
        self._pa = pa
        self._schema = pa.schema([(name, _arrow(pa, name, kind)) for name, kind in columns().items()])
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Write a page."""
        if rows:
            self._writer.write_table(self._pa.Table.from_pylist([_flat(row) for row in rows], self._schema))

    def close(self) -> None:
        """Write the end, without which it is no Parquet."""
        self._writer.close()


SINKS: Final[dict[str, Callable[[IO[bytes]], Sink]]] = {"jsonl": JsonLines, "parquet": Parquet}


def columns() -> dict[str, Any]:
    """Of a row as the API shows it: names and types."""
    kept = {field.name: field.type for field in msgspec.structs.fields(AuditRow) if field.name not in _KEPT_ONLY}
    return kept | _SHOWN


def _arrow(pa: Any, name: str, kind: Any) -> Any:
    if name in _MOMENTS:
        return pa.timestamp("ms", tz="UTC")
    types = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), bool | None: pa.bool_()}
    types |= {int | None: pa.int64(), float | None: pa.float64()}
    return types.get(kind, pa.string())


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    moments = {name: datetime.fromisoformat(row[name]) for name in _MOMENTS}
    return row | moments | {name: msgspec.json.encode(row[name]).decode() for name in _JSON}


@click.command(short_help="Every request, as JSON lines or Parquet.")
@click.option("--format", "kind", type=click.Choice(list(SINKS)), default="jsonl", show_default=True)
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Default: standard output.")
@click.option("--team", metavar="ID", help="Of one team. A team's key sees its own anyway.")
@click.option("--since", metavar="TIME", help="RFC 3339, or seconds since the epoch.")
@click.option("--until", metavar="TIME", help="The same; excluded.")
@click.option("--status", type=click.Choice(["success", "failed", "fallback", "cancelled", "refused"]))
@click.option("--model", metavar="NAME", help="Asked for, or used.")
@click.option("--provider", metavar="NAME", help="Used.")
@asks
def export(client: Client, kind: str, output: Path | None, team: str | None, **filters: Any) -> None:
    """Every request with all of its fields, newest first, as JSON lines or Parquet."""
    if output is None and kind == "parquet" and sys.stdout.isatty():
        raise CommandError("Parquet is nothing to read in a terminal: name a file with --output")
    with _opened(output) as file:
        sink = SINKS[kind](file)
        count = _copy(client, sink, {"team_id": team, **filters})
        sink.close()
    click.echo(f"{count} requests", err=True)


def _copy(client: Client, sink: Sink, wanted: dict[str, Any]) -> int:
    """How many rows there were; how far it is shows on a terminal. Raises CommandError."""
    count = 0
    shown = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    stderr = Console(stderr=True)
    with Progress(*shown, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        task = progress.add_task("requests", total=None)
        for page in client.pages("/v1/requests", _ALL, **wanted):
            sink.add(page)
            count += len(page)
            back_to = page[-1]["received_at"] if page else ""
            progress.update(task, completed=count, description=f"requests, back to {back_to}")
    return count


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[bytes]]:
    """Standard output, or a file that takes its name when it is whole. Raises CommandError."""
    if output is None:
        yield sys.stdout.buffer
        return
    in_place = output.exists() and not output.is_file()  # a pipe or a device, which nothing must take the place of
    output = output if in_place else output.resolve()  # what a link leads to, not the link
    partial = output.with_name(f".{output.name}.partial")
    try:
        if in_place:
            with output.open("wb") as file:
                yield file
            return
        with partial.open("wb") as file:
            yield file
        os.replace(partial, output)  # noqa: PTH105 - replacing is the point
    except OSError as error:
        raise CommandError(f"{output}: cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
