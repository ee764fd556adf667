"""`gateway up`, `reload` and `refill`: what starts a gateway here, or tells one that runs here to go on otherwise.

In: arguments, gateway.yaml. Out: processes, or a change in them; exit codes as in `control/cli.py`.
"""

# ruff: noqa: PLC0415 - the first start of `up` imports what the second does without, and the other way round

import asyncio
import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from control.arguments import (
    CONFIG,
    HANG_TIMEOUT,
    PATH,
    READY_TIMEOUT,
    data_dir_of,
    demo_config,
    go_on,
    refuse,
    say,
)
from extproc.paths import Paths
from extproc.settings import SettingsError


@click.command()
@CONFIG
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="Listen here instead of on listen.port.")
@READY_TIMEOUT
@HANG_TIMEOUT
@click.option("--with-parent", is_flag=True, hidden=True, help="End when the parent does (`make run`).")
@click.option("--prepared", type=int, default=None, hidden=True, help="Second start: the lock's file descriptor.")
@click.option("--data-dir", type=PATH, default=None, hidden=True, help="Second start: the prepared directory.")
def up(  # noqa: PLR0917 - click passes them by name
    config: Path | None,
    port: int | None,
    ready_timeout: float,
    hang_timeout: float,
    with_parent: bool,
    prepared: int | None,
    data_dir: Path | None,
) -> None:
    """Serve: start every process, print `ready URL`, keep them alive. Ctrl-C or SIGTERM drains and ends."""
    config = config or demo_config()
    if prepared is None or data_dir is None:
        options = ("--ready-timeout", str(ready_timeout), "--hang-timeout", str(hang_timeout))
        _start_without_credentials(config, port, (*options, *(["--with-parent"] if with_parent else [])))
    from control import up as supervisor
    from control.output import Stderr, log_to

    stderr = Stderr()
    log_to(stderr, "gateway up")
    serving = supervisor.serve(
        Paths.of(data_dir),
        stderr,
        config=config,
        ready_timeout_s=ready_timeout,
        silent_s=hang_timeout,
        with_parent=with_parent,
    )
    code = asyncio.run(serving)
    stderr.close()
    sys.exit(code)


def _start_without_credentials(config: Path, port: int | None, options: tuple[str, ...]) -> NoReturn:
    """Prepare, then become a process that never held a provider credential, in memory or environment."""
    from control.prepare import StartError, prepare

    try:
        prepared = prepare(config, port, os.environ)
    except SettingsError as error:
        refuse(error, config)
    except StartError as error:
        say(f"error: {error}")
        sys.exit(1)
    go_on("up", config, prepared, *options)


@click.command()
@click.option("--config", type=PATH, default=None, help="gateway.yaml. Default: the file that the gateway runs by.")
@click.option("--data-dir", type=PATH, default=None, help="Of the running gateway. Default: data_dir of the file.")
@click.option("--quiet", is_flag=True, hidden=True, help="Say nothing: the supervisor logs what came of it.")
def reload(config: Path | None, data_dir: Path | None, quiet: bool) -> None:
    """Have a running gateway take over its changed configuration now. A wrong one is refused, and nothing changes."""
    from control import config_status
    from control import reload as reloading

    paths = Paths.of(data_dir or data_dir_of(config or demo_config()))
    if not reloading.running(paths):
        say(f"error: no gateway runs on data_dir {paths.data_dir}")
        sys.exit(1)
    try:
        # Never the demo configuration for want of a name: its keys are known to everybody.
        config = config or Path(config_status.read(paths.config_status).file)
        attempt = reloading.run(config, paths, os.environ)
    except OSError as error:
        say(f"error: {error}")
        sys.exit(1)
    if not quiet:
        for problem in attempt.problems:
            say(f"{config}: {problem}")
        click.echo(attempt.result)
    sys.exit(2 if attempt.result == "refused" else 0)


@click.command(short_help="Copy the journal to a restored audit database.")
@CONFIG
@click.option("--data-dir", type=PATH, default=None, help="Of the gateway. Default: data_dir of the file.")
def refill(config: Path | None, data_dir: Path | None) -> None:
    """Copy the journal to the audit database once more, after a restore; rows that are there stay single."""
    from control.refill import RefillError
    from control.refill import refill as refilled

    try:
        rows, place = refilled(Paths.of(data_dir or data_dir_of(config or demo_config())))
    except RefillError as error:
        say(f"error: {error}")
        sys.exit(1)
    click.echo(f"{rows} requests of the journal will be copied to {place}")
