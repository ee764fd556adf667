"""What the commands have in common: `--url`, `--key-file`, `--json`; errors of one line and exit codes.

The key comes from GATEWAY_KEY or a file, never from an argument: arguments show in process lists and histories.
Exit codes: 0 done; 1 the gateway cannot be asked, or cannot answer now; 2 the arguments are wrong, or what they name is
not there; 3 the key is refused.
"""

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from control.commands.client import Client, CommandError

_PATH = click.Path(path_type=Path, dir_okay=False)


def asks(command: Callable[..., None]) -> Callable[..., None]:
    """Gives `command` a Client as its first argument, and turns its errors into a line and an exit code."""

    @click.option(
        "--url", envvar="GATEWAY_URL", default="http://127.0.0.1:8080", show_default=True, help="Of a gateway."
    )
    @click.option("--key-file", type=_PATH, help="A file with the key. Default: the variable GATEWAY_KEY.")
    @functools.wraps(command)
    def run(*arguments: Any, url: str, key_file: Path | None, **options: Any) -> None:
        try:
            command(Client(_checked(url), _key(key_file)), *arguments, **options)
        except CommandError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            sys.exit(130)
        except OSError as error:  # of standard output
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where what is left of it goes at the end
            if isinstance(error, BrokenPipeError):  # `| head` has seen enough
                sys.exit(0)
            click.echo(f"error: standard output cannot be written: {error.strerror}", err=True)
            sys.exit(1)

    return run


as_json = click.option("--json", "as_json", is_flag=True, help="For programs.")


def print_json(value: Any) -> None:
    """One line of JSON, out at once."""
    click.echo(json.dumps(value, ensure_ascii=False))


def _checked(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise _Wrong(f"--url must begin with http:// or https://: {url}")
    return url


def _key(file: Path | None) -> str:
    key = os.environ.get("GATEWAY_KEY", "") if file is None else _read(file)
    if not key:
        raise _Wrong("no key: set GATEWAY_KEY, or name a file with --key-file")
    if not key.isascii() or not key.isprintable():
        raise _Wrong("the key must be one line of ASCII")
    return key


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _Wrong(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


class _Wrong(CommandError):
    exit_code = 2
