"""`gateway check`, `render` and `prices`: what a file says, without a gateway that runs.

In: gateway.yaml and the files it names. Out: text or JSON. Exit codes as in `control/cli.py`.
"""

# ruff: noqa: PLC0415 - each sub-command imports only what it needs

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from control.arguments import CONFIG, PATH, demo_config, loaded, refuse, say
from extproc.paths import Paths
from extproc.settings import Settings, SettingsError

_MOST_PROBLEMS = 20  # of a price file; each of its models may have the same


@click.command()
@click.argument("file", type=PATH)
@click.option("--json", "as_json_", is_flag=True, help="For programs.")
def check(file: Path, as_json_: bool) -> None:
    """Check a configuration and explain what it does."""
    from control.check import as_json, as_text, explain

    settings = loaded(file)
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
        refuse(SettingsError([f"listen.tls: {wrong}"]), file)


@click.command(short_help="Print the Envoy configuration made of a file.")
@click.argument("file", type=PATH)
def render(file: Path) -> None:
    """Print the Envoy configuration made of a file, as one JSON document; credentials are blanked out."""
    from control.render import checked

    settings = loaded(file)
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


@click.group()
def prices() -> None:
    """List prices: import a newer table, show those in force."""


@prices.command(name="import")
@click.argument("file", type=PATH)
@click.option("--output", "-o", type=PATH, default=Path("prices.json"), show_default=True, help="The table to write.")
@click.option("--as-of", default=None, metavar="YYYY-MM-DD", help="The date of FILE. Default: today.")
def import_prices(file: Path, output: Path, as_of: str | None) -> None:
    """Make a price table of LiteLLM's public FILE, model_prices_and_context_window.json, for `prices: {file: …}`."""
    from datetime import UTC, datetime

    from control.pricelist import import_file
    from extproc.pricing import PriceTableError

    try:
        click.echo(import_file(file, output, as_of or f"{datetime.now(UTC):%Y-%m-%d}"))
    except PriceTableError as error:
        for problem in error.problems[:_MOST_PROBLEMS]:
            say(problem)
        if more := error.problems[_MOST_PROBLEMS:]:
            say(f"and {len(more)} more")
        sys.exit(2)
    except OSError as error:
        say(f"{output}: cannot be written: {error.strerror}")
        sys.exit(1)


@prices.command(name="list")
@CONFIG
@click.option("--json", "as_json_", is_flag=True, help="For programs.")
def list_prices(config: Path | None, as_json_: bool) -> None:
    """Show each configured model's price, and where it is from."""
    from control.pricelist import as_text, in_force
    from extproc.pricing import price_tables
    from extproc.settings import parse

    file = config or demo_config()
    priced = loaded(file)
    unpriced = parse(file.read_text(encoding="utf-8"), os.environ, list_prices=False)
    models = in_force(unpriced, priced, price_tables(priced.prices.file))
    click.echo(json.dumps([msgspec.to_builtins(model) for model in models], indent=2) if as_json_ else as_text(models))
