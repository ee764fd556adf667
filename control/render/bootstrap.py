"""The bootstrap: `envoy/bootstrap.yaml` with the paths filled in, and what Envoy does about its memory."""

from pathlib import Path
from string import Template
from typing import Any

import yaml

from control.render.names import any_of
from extproc.paths import Paths
from extproc.settings import Listen

_HEAP = "envoy.resource_monitors.fixed_heap"
# Of `max_memory`. What is open goes on and needs some more: bodies on their way, answers that are read.
_GIVE_BACK, _REFUSE = 0.7, 0.85


def asset(name: str) -> str:
    """The text of a file of the `envoy/` folder: beside the packages in a checkout, inside `control` in a wheel."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "envoy", package.parent / "envoy"):
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8")
    raise FileNotFoundError(f"envoy/{name} is not installed")


def render(listen: Listen, paths: Paths) -> dict[str, Any]:
    """The bootstrap document."""
    text = Template(asset("bootstrap.yaml")).substitute(
        admin_socket=paths.admin_socket, cds=paths.envoy / "cds.json", lds=paths.envoy / "lds.json", name=""
    )
    document: dict[str, Any] = yaml.safe_load(text)
    if listen.max_memory is not None:
        document["overload_manager"] = _overload_manager(listen.max_memory)
    return document


def _overload_manager(max_bytes: int) -> dict[str, Any]:
    """Listeners that `bypass_overload_manager` are open all the same."""
    monitor = any_of("envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig", max_heap_size_bytes=max_bytes)
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [{"name": _HEAP, "typed_config": monitor}],
        "actions": [
            {
                "name": f"envoy.overload_actions.{action}",
                "triggers": [{"name": _HEAP, "threshold": {"value": threshold}}],
            }
            for action, threshold in (("shrink_heap", _GIVE_BACK), ("stop_accepting_requests", _REFUSE))
        ],
    }
