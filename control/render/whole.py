"""Envoy's own verdict on a rendered configuration, before a running Envoy gets to see it.

In: checked Settings with credentials. Out: nothing, or what Envoy says is wrong. Clusters, listeners and routes are put
into one static bootstrap, for `envoy --mode validate` looks at nothing else; it lies in a directory of its own while it
is looked at. The files of TLS are looked at where they are: certificate and key must fit.
"""

import asyncio
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from control import render
from control.binaries import envoy as envoy_binary
from control.render import tls
from extproc.paths import Paths
from extproc.settings import Settings

Document = dict[str, Any]

_VALIDATE_S = 30.0
_MOST_CHARS = 500


def static(files: dict[str, Document]) -> Document:
    """All of `files` as one bootstrap. Secrets stay files."""
    bootstrap = {name: value for name, value in files["bootstrap.json"].items() if name != "dynamic_resources"}
    bootstrap["static_resources"] = {
        "clusters": [_without_type(cluster) for cluster in files["cds.json"]["resources"]],
        "listeners": [_with_routes(listener, files) for listener in files["lds.json"]["resources"]],
    }
    return bootstrap


def _without_type(resource: Document) -> Document:
    return {key: value for key, value in resource.items() if key != "@type"}


def _with_routes(listener: Document, files: dict[str, Document]) -> Document:
    listener = json.loads(json.dumps(_without_type(listener)))
    for chain in listener["filter_chains"]:
        if socket := chain.get("transport_socket"):
            socket["typed_config"] = tls.inlined(socket["typed_config"], files)
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    if "rds" in manager:
        name = manager.pop("rds")["route_config_name"]
        manager["route_config"] = _without_type(files[f"rds-{name}.json"]["resources"][0])
    return listener


def rendered(settings: Settings, paths: Paths) -> dict[str, Document]:
    """What is to be rendered, for a running Envoy: checked by its types where `verdict` has no Envoy to ask, and only
    there, for they take two seconds of CPU and it a tenth. Raises ValueError."""
    return (render.checked if envoy_binary() is None else render.render)(settings, paths)


async def verdict(settings: Settings, folder: Path) -> str | None:
    """What Envoy says against `settings`, looked at below `folder`; None: nothing, or there is no Envoy here to ask, as
    in a container beside it: then its types judge, and the running Envoy."""
    if (binary := envoy_binary()) is None:
        return None
    with tempfile.TemporaryDirectory(dir=folder, prefix=".check-") as within:
        elsewhere = Paths(Path(within))
        files = render.write(settings, elsewhere)
        (file := elsewhere.envoy / "static.json").write_bytes(render.encoded(static(files)))
        envoy = await asyncio.create_subprocess_exec(
            str(binary),
            *("--mode", "validate", "--config-path", str(file), "--log-level", "error", "--log-format", "%v"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, said = await asyncio.wait_for(envoy.communicate(), _VALIDATE_S)
        except TimeoutError:
            envoy.kill()
            return f"Envoy did not check it within {_VALIDATE_S:g} s"
    return None if envoy.returncode == 0 else _short(said.decode(errors="replace"), within)


def _short(said: str, folder: str) -> str:
    """The first line that says what is wrong."""
    lines = [line.replace(folder, "…") for line in said.splitlines() if line.strip()]
    wrong = next((line for line in lines if re.search(r"rror|nvalid|nable|nknown|must", line)), "it is refused")
    return f"Envoy: {wrong[:_MOST_CHARS]}"
