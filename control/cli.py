"""The `gateway` command. In: arguments. Out: text and an exit code; what a sub-command does is in the file it calls.

Exit codes: 0 done; 1 it cannot run here, or did not come up; 2 the configuration or the arguments are wrong.
"""

# ruff: noqa: PLC0415 - each sub-command imports only what it needs: a worker does not carry the renderer
# ruff: noqa: E402 - before the imports, for it is they that the collector would look through

from extproc.process.collector import collect_seldom

collect_seldom()

import asyncio
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import click

from control.arguments import (
    CONFIG,
    DATA_DIR,
    HANG_TIMEOUT,
    PATH,
    READY_TIMEOUT,
    data_dir_of,
    demo_config,
    go_on,
    refuse,
    say,
)
from control.cli_files import check, prices, render
from control.cli_pod import extproc, watch
from extproc.paths import Paths
from extproc.settings import SettingsError


class _Commands(click.Group):
    """Those that ask a running gateway are imported when they are called: a worker carries no tables."""

    _asking = ("export", "keys", "requests", "teams", "top", "usage")

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Theirs too."""
        return sorted([*super().list_commands(ctx), *self._asking])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of theirs, or of ours."""
        if cmd_name not in self._asking:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(f"control.commands.{cmd_name}"), cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="llm-gateway")
def main() -> None:
    """An LLM gateway: one OpenAI-compatible endpoint in front of every provider."""


@main.command()
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


@main.command()
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


@main.command(short_help="Copy the journal to a restored audit database.")
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


@main.command(hidden=True)
@click.argument("index", type=click.IntRange(0, 63))
@DATA_DIR
def worker(index: int, data_dir: Path) -> None:
    """One worker: the ext_proc service."""
    from extproc.__main__ import run

    run(data_dir, index)


@main.command(hidden=True)
@DATA_DIR
def settler(data_dir: Path) -> None:
    """The settler: access log entries to audit rows."""
    from extproc.settle.main import run

    run(data_dir)


@main.command(name="control", hidden=True)
@DATA_DIR
def control_(data_dir: Path) -> None:
    """The control API."""
    from control.app import run

    run(data_dir)


@main.command(
    short_help="The built-in provider simulator.",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> None:
    """The built-in provider simulator; `gateway demo --help` lists its options."""
    from control.demo.server import main as serve

    serve(list(arguments))


for _command in (check, render, prices, watch, extproc):
    main.add_command(_command)


if __name__ == "__main__":
    main()
