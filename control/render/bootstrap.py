"""The bootstrap: `envoy/bootstrap.yaml` with the paths filled in."""

from pathlib import Path
from string import Template
from typing import Any

import yaml

from extproc.paths import Paths


def asset(name: str) -> str:
    """The text of a file of the `envoy/` folder: beside the packages in a checkout, inside `control` in a wheel."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "envoy", package.parent / "envoy"):
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8")
    raise FileNotFoundError(f"envoy/{name} is not installed")


def render(paths: Paths) -> dict[str, Any]:
    """The bootstrap document."""
    text = Template(asset("bootstrap.yaml")).substitute(
        admin_socket=paths.admin_socket, cds=paths.envoy / "cds.json", lds=paths.envoy / "lds.json", name=""
    )
    document: dict[str, Any] = yaml.safe_load(text)
    return document
