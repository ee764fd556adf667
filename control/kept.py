"""The environment variables that gateway.yaml asked for, kept for its next reload.

In: the operator's environment at the start, or of `gateway reload`. Out: a file beside the secrets, for the owner only.
The supervisor has long dropped them from its own environment; whoever reloads reads them here and ends.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from extproc.process.files import replace_file
from extproc.settings import variables


def write(config: Path, env: Mapping[str, str], path: Path) -> None:
    """Keep what `config` asks for and `env` has."""
    replace_file(path, encoded(config, env))


def encoded(config: Path, env: Mapping[str, str]) -> bytes:
    """What is kept."""
    wanted = variables(config.read_text(encoding="utf-8"))
    return msgspec.json.encode({name: env[name] for name in sorted(wanted & env.keys())})


def read(path: Path) -> dict[str, str]:
    """What was kept; nothing, if there is no such file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
