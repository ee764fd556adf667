"""What the sub-commands that run here have in common: options, the file they are about, how they say what is wrong.

In: arguments. Out: options for click; checked settings; one line an error on stderr, and the exit code.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from control.command import gateway
from control.silence import SILENT_S
from extproc import settings
from extproc.settings import Settings, SettingsError

if TYPE_CHECKING:
    from control.prepare import Prepared

PATH = click.Path(path_type=Path)
CONFIG = click.option("--config", type=PATH, default=None, help="gateway.yaml. Default: the demo configuration.")
READY_TIMEOUT = click.option(
    "--ready-timeout", type=float, default=60.0, show_default=True, help="Seconds to come up in."
)
HANG_TIMEOUT = click.option(
    "--hang-timeout",
    type=click.FloatRange(0.1),
    default=SILENT_S,
    show_default=True,
    envvar="GATEWAY_HANG_TIMEOUT",
    help="Seconds after which a worker, the settler or control that answers nothing is killed and started again.",
)


def go_on(command: str, config: Path, prepared: "Prepared", *options: str) -> NoReturn:
    """Become the second start of `gateway COMMAND`, with what is prepared and nothing of this process' memory."""
    where = ("--config", str(config), "--prepared", str(prepared.lock_fd), "--data-dir", str(prepared.paths.data_dir))
    line = gateway(command, *where, *options)
    os.execve(line[0], line, prepared.env)  # noqa: S606 - becoming it is the point


def demo_config() -> Path:
    """The demo configuration: at the root of a checkout, inside the package when installed."""
    package = Path(__file__).resolve().parent
    return next(
        (path for folder in (package.parent, package) if (path := folder / "gateway.demo.yaml").is_file()),
        package / "gateway.demo.yaml",
    )


def data_dir_of(config: Path) -> Path:
    """Where the gateway of this file has its data; ends the process where the file does not say."""
    try:
        return settings.data_dir_of(config, os.environ)
    except SettingsError as error:
        refuse(error, config)


def loaded(file: Path) -> Settings:
    """The file, checked; ends the process with a line for each problem."""
    try:
        return settings.load(file, os.environ)
    except SettingsError as error:
        refuse(error, file)


def refuse(error: SettingsError, file: Path) -> NoReturn:
    """Say each problem with the file's name, and end."""
    for problem in error.problems:
        say(problem if problem.startswith(str(file)) else f"{file}: {problem}")
    sys.exit(2)


def say(line: str) -> None:
    """On stderr."""
    click.echo(line, err=True)
