"""The processes of a gateway, each as `gateway` starts it; the simulator also by itself.

In: where the data is. Out: a process that serves until SIGTERM.
"""

# ruff: noqa: PLC0415 - each imports only what it needs: a worker does not carry the renderer

from pathlib import Path

import click

DATA_DIR = click.option(
    "--data-dir", type=click.Path(path_type=Path), required=True, help="The gateway's data directory."
)


@click.command(hidden=True)
@click.argument("index", type=click.IntRange(0, 63))
@DATA_DIR
def worker(index: int, data_dir: Path) -> None:
    """One worker: the ext_proc service."""
    from extproc.__main__ import run

    run(data_dir, index)


@click.command(hidden=True)
@DATA_DIR
def settler(data_dir: Path) -> None:
    """The settler: access log entries to audit rows."""
    from extproc.settle.main import run

    run(data_dir)


@click.command(hidden=True)
@DATA_DIR
def control(data_dir: Path) -> None:
    """The control API."""
    from control.app import run

    run(data_dir)


@click.command(
    short_help="The built-in provider simulator.",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> None:
    """The built-in provider simulator; `gateway demo --help` lists its options."""
    from control.demo.server import main as serve

    serve(list(arguments))
