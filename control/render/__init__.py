"""Envoy's whole configuration, rendered from gateway.yaml and checked against Envoy's own types.

In: checked Settings (with credentials) and the data directory's layout. Out: files that Envoy reads:
`bootstrap.json`, `cds.json` (clusters), `lds.json` (listeners), `rds-*.json` (routes), one SDS secret per provider
with a credential, and those of the gateway's own TLS. Called by the supervisor and by `gateway render`; nothing here
runs while requests are served.
"""

import hashlib
import importlib
import json
from collections.abc import Callable, Collection, Iterable
from typing import Any

import betterproto2
from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryResponse

from control.render import bootstrap, clusters, listeners, routes, secrets, tls
from extproc.paths import Paths
from extproc.runtime import replace_file
from extproc.settings import Settings

Document = dict[str, Any]


def render(settings: Settings, paths: Paths) -> dict[str, Document]:
    """File name below `paths.envoy` -> its content. Raises ValueError where Envoy's types do not accept it."""
    files: dict[str, Document] = {
        "bootstrap.json": bootstrap.render(paths),
        "cds.json": discovery(clusters.render(settings, paths)),
        "lds.json": discovery(listeners.render(settings, paths)),
        "rds-ingress.json": discovery([routes.ingress(settings)]),
        "rds-fallback.json": discovery([routes.fallback(settings)]),
    }
    _check(Bootstrap, "bootstrap.json", files["bootstrap.json"])
    for name in list(files)[1:]:
        _check(DiscoveryResponse, name, files[name])
    for provider, secret in secrets.render(settings).items():
        files[f"secrets/{provider}.json"] = {
            "resources": [secret]
        }  # no version_info: a credential has no digest either
        _check(DiscoveryResponse, f"secrets/{provider}.json", files[f"secrets/{provider}.json"])
    for name, document in tls.files(settings.listen, paths).items():
        files[name] = document
        if name in (tls.CERTIFICATE, tls.CLIENT_CA):
            _check(DiscoveryResponse, name, document)
    return files


def write(settings: Settings, paths: Paths) -> dict[str, Document]:
    """Render and write every file, for an Envoy that is not yet running; secrets no longer configured are removed.
    Returns what was rendered."""
    files = render(settings, paths)
    paths.secrets.mkdir(parents=True, exist_ok=True, mode=0o700)
    paths.secrets.chmod(0o700)
    paths.tls.mkdir(exist_ok=True, mode=0o700)
    remove_secrets(paths, keep=files)
    for name in in_order(files):
        replace_file(paths.envoy / name, encoded(files[name]))
    return files


def in_order(files: Iterable[str]) -> list[str]:
    """File names as Envoy must get them: secrets before the clusters that wait for them, clusters before routes."""
    first = ("secrets/", "tls/", "bootstrap.", "cds.", "lds.", "rds-")
    return sorted(files, key=lambda name: next(rank for rank, start in enumerate(first) if name.startswith(start)))


def remove_secrets(paths: Paths, keep: Collection[str]) -> None:
    """Remove secret files that are not in `keep` (names as in `render`)."""
    for stale in paths.secrets.glob("*.json"):
        if f"secrets/{stale.name}" not in keep:
            stale.unlink()


def encoded(document: Document) -> bytes:
    """The bytes of a file."""
    return json.dumps(document, indent=1).encode()


def discovery(resources: list[Document]) -> Document:
    """What a watched file holds. By `version_info` Envoy tells which one it has taken."""
    digest = hashlib.sha256(json.dumps(resources, sort_keys=True).encode()).hexdigest()
    return {"version_info": digest[:16], "resources": resources}


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
