"""Envoy's whole configuration, rendered from gateway.yaml and checked against Envoy's own types.

In: checked Settings (with credentials) and the data directory's layout. Out: files that Envoy reads:
`bootstrap.json`, `cds.json` (clusters), `lds.json` (listeners), `rds-*.json` (routes) and one SDS secret per provider
with a credential. Called by the supervisor and by `gateway render`; nothing here runs while requests are served.
"""

import importlib
import json
from collections.abc import Callable
from typing import Any

import betterproto2
from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryResponse

from control.render import bootstrap, clusters, listeners, routes, secrets
from extproc.paths import Paths
from extproc.runtime import replace_file
from extproc.settings import Settings

Document = dict[str, Any]


def render(settings: Settings, paths: Paths) -> dict[str, Document]:
    """File name below `paths.envoy` -> its content. Raises ValueError where Envoy's types do not accept it."""
    files: dict[str, Document] = {
        "bootstrap.json": bootstrap.render(paths),
        "cds.json": _discovery(clusters.render(settings, paths)),
        "lds.json": _discovery(listeners.render(settings, paths)),
        "rds-ingress.json": _discovery([routes.ingress(settings)]),
        "rds-fallback.json": _discovery([routes.fallback(settings)]),
    }
    _check(Bootstrap, "bootstrap.json", files["bootstrap.json"])
    for name in list(files)[1:]:
        _check(DiscoveryResponse, name, files[name])
    for provider, secret in secrets.render(settings).items():
        files[f"secrets/{provider}.json"] = _discovery([secret])
        _check(DiscoveryResponse, f"secrets/{provider}.json", files[f"secrets/{provider}.json"])
    return files


def write(settings: Settings, paths: Paths) -> None:
    """Render and replace every file atomically; secrets first, so that no cluster waits for one."""
    paths.secrets.mkdir(parents=True, exist_ok=True, mode=0o700)
    paths.secrets.chmod(0o700)
    files = render(settings, paths)
    for stale in paths.secrets.glob("*.json"):
        if f"secrets/{stale.name}" not in files:
            stale.unlink()
    for name in sorted(files, key=lambda name: not name.startswith("secrets/")):
        replace_file(paths.envoy / name, json.dumps(files[name], indent=1).encode())


def _discovery(resources: list[Document]) -> Document:
    return {"resources": resources}


def _check(kind: type[betterproto2.Message], name: str, document: Document) -> None:
    """Parse `document` as Envoy's own type, `Any` fields included: an unknown or mistyped field is an error here."""
    parse: Callable[[Document], betterproto2.Message] = kind.from_dict
    try:
        _register_types(document)
        parse(_readable(document))
    except Exception as error:
        raise ValueError(f"{name}: not what Envoy's types accept: {error}") from error


def _readable(node: Any) -> Any:
    """A copy without the fields that the types cannot read though they have them: no spelling of them is taken."""
    if isinstance(node, list):
        return [_readable(item) for item in node]
    if isinstance(node, dict):
        return {name: _readable(item) for name, item in node.items() if name != "consecutive_5xx"}
    return node


def _register_types(node: Any) -> None:
    """Import the module of every `@type` below `node`: an Any can hold only types that were imported."""
    if isinstance(node, list):
        for item in node:
            _register_types(item)
    elif isinstance(node, dict):
        if "@type" in node:
            package = node["@type"].rpartition("/")[2].rpartition(".")[0]
            importlib.import_module(f"envoy_data_plane.{package}")
        for item in node.values():
            _register_types(item)
