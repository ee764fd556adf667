"""`gateway watch` and `gateway extproc`: two of the containers of a pod; what they do is in `control/pod.py`."""

# ruff: noqa: PLC0415 - each sub-command imports only what it needs

import asyncio
import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from control.arguments import HANG_TIMEOUT, PATH, READY_TIMEOUT, go_on, refuse, say
from control.cli_processes import DATA_DIR
from extproc.paths import Paths
from extproc.settings import SettingsError


@click.command(short_help="In a pod: render the configuration, follow it.")
@click.option("--config", type=PATH, required=True, help="gateway.yaml; its data_dir is the pod's.")
@click.option("--prepared", type=int, default=None, hidden=True, help="Second start: the lock's file descriptor.")
@click.option("--data-dir", type=PATH, default=None, hidden=True, help="Second start: the prepared directory.")
@click.option("--again", is_flag=True, hidden=True, help="Second start: the pod is serving already.")
def watch(config: Path, prepared: int | None, data_dir: Path | None, again: bool) -> None:
    """In a pod: render the configuration, then take over its changes and drain Envoy. One container of four."""
    from control import pod
    from control.output import Stderr, log_to

    if prepared is None or data_dir is None:
        _watch_without_credentials(config)
    stderr = Stderr()
    log_to(stderr, "gateway watch")
    code = asyncio.run(pod.watch(config, Paths.of(data_dir), again=again))
    stderr.close()
    sys.exit(code)


def _watch_without_credentials(config: Path) -> NoReturn:
    from control import pod
    from control.prepare import StartError

    try:
        prepared, again = pod.prepare(config, os.environ)
    except SettingsError as error:
        refuse(error, config)
    except (StartError, OSError) as error:
        say(f"error: {error}")
        sys.exit(1)
    go_on("watch", config, prepared, *(["--again"] if again else []))


@click.command()
@DATA_DIR
@READY_TIMEOUT
@HANG_TIMEOUT
def extproc(data_dir: Path, ready_timeout: float, hang_timeout: float) -> None:
    """In a pod: keep the workers and the settler. One container of four."""
    from control import pod
    from control.output import Stderr, log_to

    if not Paths.of(data_dir).runtime.is_file():
        say(f"{data_dir}: no configuration is there yet; `gateway watch` makes it")
        sys.exit(1)
    stderr = Stderr()
    log_to(stderr, "gateway extproc")
    code = asyncio.run(pod.extproc(Paths.of(data_dir), stderr, ready_timeout_s=ready_timeout, silent_s=hang_timeout))
    stderr.close()
    sys.exit(code)
