"""The `gateway` command. In: arguments. Out: text and an exit code; what a sub-command does is in the file it calls.

Exit codes: 0 done; 1 it cannot run here, or did not come up; 2 the configuration or the arguments are wrong.
"""

# ruff: noqa: PLC0415 - each sub-command imports only what it needs: a worker does not carry the renderer

import asyncio
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from control.silence import SILENT_S
from extproc.paths import Paths
from extproc.settings import Settings, SettingsError

_CONFIG = click.Path(path_type=Path)
_READY_TIMEOUT = click.option(
    "--ready-timeout", type=float, default=60.0, show_default=True, help="Seconds to come up in."
)
_HANG_TIMEOUT = click.option(
    "--hang-timeout",
    type=click.FloatRange(0.1),
    default=SILENT_S,
    show_default=True,
    envvar="GATEWAY_HANG_TIMEOUT",
    help="Seconds after which a worker, the settler or control that answers nothing is killed and started again.",
)
_DATA_DIR = click.option("--data-dir", type=_CONFIG, required=True, help="The gateway's data directory.")


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
@click.option("--config", type=_CONFIG, default=None, help="gateway.yaml. Default: the demo configuration.")
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="Listen here instead of on listen.port.")
@_READY_TIMEOUT
@_HANG_TIMEOUT
@click.option("--with-parent", is_flag=True, hidden=True, help="End when the parent does (`make run`).")
@click.option("--prepared", type=int, default=None, hidden=True, help="Second start: the lock's file descriptor.")
@click.option("--data-dir", type=_CONFIG, default=None, hidden=True, help="Second start: the prepared directory.")
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
        _refuse(error, config)
    except StartError as error:
        _say(f"error: {error}")
        sys.exit(1)
    arguments = (
        "up",
        *("--config", str(config)),
        *options,
        *("--prepared", str(prepared.lock_fd)),
        *("--data-dir", str(prepared.paths.data_dir)),
    )
    _become(arguments, prepared.env)


def _become(arguments: tuple[str, ...], env: dict[str, str]) -> NoReturn:
    from control.command import gateway

    command = gateway(*arguments)
    os.execve(command[0], command, env)  # noqa: S606 - becoming it is the point


@main.command()
@click.option("--config", type=_CONFIG, default=None, help="gateway.yaml. Default: the demo configuration.")
@click.option("--data-dir", type=_CONFIG, default=None, help="Of the running gateway. Default: data_dir of the file.")
@click.option("--quiet", is_flag=True, hidden=True, help="Say nothing: the supervisor logs what came of it.")
def reload(config: Path | None, data_dir: Path | None, quiet: bool) -> None:
    """Have a running gateway take over its changed configuration now. A wrong one is refused, and nothing changes."""
    from control import reload as reloading

    config = config or demo_config()
    paths = Paths.of(data_dir or _data_dir_of(config))
    if not reloading.running(paths):
        _say(f"error: no gateway runs on data_dir {paths.data_dir}")
        sys.exit(1)
    try:
        attempt = reloading.run(config, paths, os.environ)
    except OSError as error:
        _say(f"error: {error}")
        sys.exit(1)
    if not quiet:
        for problem in attempt.problems:
            _say(f"{config}: {problem}")
        click.echo(attempt.result)
    sys.exit(2 if attempt.result == "refused" else 0)


@main.command()
@click.option("--config", type=_CONFIG, default=None, help="gateway.yaml. Default: the demo configuration.")
@click.option("--data-dir", type=_CONFIG, default=None, help="Of the gateway. Default: data_dir of the file.")
def refill(config: Path | None, data_dir: Path | None) -> None:
    """Copy the journal to the audit database once more, after a restore; rows that are there stay single."""
    from control.refill import RefillError
    from control.refill import refill as refilled

    try:
        rows, place = refilled(Paths.of(data_dir or _data_dir_of(config or demo_config())))
    except RefillError as error:
        _say(f"error: {error}")
        sys.exit(1)
    click.echo(f"{rows} requests of the journal will be copied to {place}")


@main.command()
@click.argument("file", type=_CONFIG)
@click.option("--json", "as_json_", is_flag=True, help="For programs.")
def check(file: Path, as_json_: bool) -> None:
    """Check a configuration and explain what it does."""
    from control.check import as_json, as_text, explain

    settings = _load(file)
    if settings.listen.tls:
        _require_envoys_consent(settings, file)
    explanation = explain(settings)
    click.echo(as_json(explanation) if as_json_ else as_text(explanation), nl=as_json_)


def _require_envoys_consent(settings: Settings, file: Path) -> None:
    """Whether a private key fits its certificate only Envoy can say: nothing else reads it."""
    import tempfile

    from control.render.whole import verdict

    wrong = asyncio.run(verdict(settings, Path(tempfile.gettempdir())))
    if wrong is not None:
        _refuse(SettingsError([f"listen.tls: {wrong}"]), file)


@main.command()
@click.argument("file", type=_CONFIG)
def render(file: Path) -> None:
    """Print the Envoy configuration made of a file, as one JSON document; credentials are blanked out."""
    from control.render import checked

    settings = _load(file)
    click.echo(json.dumps(_redacted(checked(settings, Paths.of(settings.data_dir))), indent=2))


def _redacted(files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Every text value of a secret file becomes `***`, but for names and types."""

    def blank(node: Any, key: str = "") -> Any:
        if isinstance(node, dict):
            return {name: blank(value, name) for name, value in node.items()}
        if isinstance(node, list):
            return [blank(item, key) for item in node]
        return node if key in ("@type", "name") else "***"

    return {name: blank(file) if name.startswith("secrets/") else file for name, file in files.items()}


@main.group()
def prices() -> None:
    """List prices: import a newer table, show those in force."""


@prices.command(name="import")
@click.argument("file", type=_CONFIG)
@click.option("--output", type=_CONFIG, default=Path("prices.json"), show_default=True, help="The table to write.")
@click.option("--as-of", default=None, metavar="YYYY-MM-DD", help="The date of FILE. Default: today.")
def import_prices(file: Path, output: Path, as_of: str | None) -> None:
    """Make a price table of LiteLLM's public FILE, model_prices_and_context_window.json, for `prices: {file: …}`."""
    from datetime import UTC, datetime

    from control.pricelist import import_file
    from extproc.pricing import PriceTableError

    try:
        click.echo(import_file(file, output, as_of or f"{datetime.now(UTC):%Y-%m-%d}"))
    except PriceTableError as error:
        for problem in error.problems:
            _say(problem)
        sys.exit(2)
    except OSError as error:
        _say(f"{output}: cannot be written: {error.strerror}")
        sys.exit(1)


@prices.command(name="list")
@click.option("--config", type=_CONFIG, default=None, help="gateway.yaml. Default: the demo configuration.")
@click.option("--json", "as_json_", is_flag=True, help="For programs.")
def list_prices(config: Path | None, as_json_: bool) -> None:
    """Show each configured model's price, and where it is from."""
    from control.pricelist import as_text, in_force
    from extproc.pricing import price_tables
    from extproc.settings import parse

    file = config or demo_config()
    priced = _load(file)
    unpriced = parse(file.read_text(encoding="utf-8"), os.environ, list_prices=False)
    models = in_force(unpriced, priced, price_tables(priced.prices.file))
    click.echo(json.dumps([msgspec.to_builtins(model) for model in models], indent=2) if as_json_ else as_text(models))


@main.command()
@click.option("--config", type=_CONFIG, required=True, help="gateway.yaml; its data_dir is the pod's.")
@click.option("--prepared", type=int, default=None, hidden=True, help="Second start: the lock's file descriptor.")
@click.option("--data-dir", type=_CONFIG, default=None, hidden=True, help="Second start: the prepared directory.")
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
        _refuse(error, config)
    except (StartError, OSError) as error:
        _say(f"error: {error}")
        sys.exit(1)
    arguments = (
        "watch",
        *("--config", str(config)),
        *("--prepared", str(prepared.lock_fd)),
        *("--data-dir", str(prepared.paths.data_dir)),
        *(["--again"] if again else []),
    )
    _become(arguments, prepared.env)


@main.command()
@_DATA_DIR
@_READY_TIMEOUT
@_HANG_TIMEOUT
def extproc(data_dir: Path, ready_timeout: float, hang_timeout: float) -> None:
    """In a pod: keep the workers and the settler. One container of four."""
    from control import pod
    from control.output import Stderr, log_to

    stderr = Stderr()
    log_to(stderr, "gateway extproc")
    code = asyncio.run(pod.extproc(Paths.of(data_dir), stderr, ready_timeout_s=ready_timeout, silent_s=hang_timeout))
    stderr.close()
    sys.exit(code)


@main.command(hidden=True)
@click.argument("index", type=click.IntRange(0, 63))
@_DATA_DIR
def worker(index: int, data_dir: Path) -> None:
    """One worker: the ext_proc service."""
    from extproc.__main__ import run

    run(data_dir, index)


@main.command(hidden=True)
@_DATA_DIR
def settler(data_dir: Path) -> None:
    """The settler: access log entries to audit rows."""
    from extproc.settle.main import run

    run(data_dir)


@main.command(name="control", hidden=True)
@_DATA_DIR
def control_(data_dir: Path) -> None:
    """The control API."""
    from control.app import run

    run(data_dir)


@main.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> None:
    """The built-in provider simulator; `gateway demo --help` lists its options."""
    from control.demo.server import main as serve

    serve(list(arguments))


def demo_config() -> Path:
    """The demo configuration: at the root of a checkout, inside the package when installed."""
    package = Path(__file__).resolve().parent
    return next(
        (path for folder in (package.parent, package) if (path := folder / "gateway.demo.yaml").is_file()),
        package / "gateway.demo.yaml",
    )


def _data_dir_of(config: Path) -> Path:
    from extproc.settings import data_dir_of

    try:
        return data_dir_of(config, os.environ)
    except SettingsError as error:
        _refuse(error, config)


def _load(file: Path) -> Settings:
    from extproc.settings import load

    try:
        return load(file, os.environ)
    except SettingsError as error:
        _refuse(error, file)


def _refuse(error: SettingsError, file: Path) -> NoReturn:
    for problem in error.problems:
        _say(problem if problem.startswith(str(file)) else f"{file}: {problem}")
    sys.exit(2)


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main()
