"""Envoy's whole configuration, rendered from gateway.yaml; where asked, checked against Envoy's own types.

In: checked Settings (with credentials) and the data directory's layout. Out: files that Envoy reads:
`bootstrap.json`, `cds.json` (clusters), `lds.json` (listeners), `rds-*.json` (routes), one SDS secret per provider
with a credential, and those of the gateway's own TLS. Called by the supervisor and by `gateway render`; nothing here
runs while requests are served.
"""

import hashlib
import json
from collections.abc import Collection, Iterable
from typing import Any

from control.render import bootstrap, clusters, listeners, routes, secrets, tls
from extproc.paths import Paths
from extproc.process.files import replace_file
from extproc.settings import Settings

Document = dict[str, Any]


def render(settings: Settings, paths: Paths) -> dict[str, Document]:
    """File name below `paths.envoy` -> its content."""
    return {
        "bootstrap.json": bootstrap.render(settings.listen, paths),
        "cds.json": discovery(clusters.render(settings, paths)),
        "lds.json": discovery(listeners.render(settings, paths)),
        "rds-ingress.json": discovery([routes.ingress(settings)]),
        "rds-fallback.json": discovery([routes.fallback(settings)]),
        # No version_info: a credential has no digest either.
        **{f"secrets/{name}.json": {"resources": [secret]} for name, secret in secrets.render(settings).items()},
        **tls.files(settings.listen, paths),
    }


def checked(settings: Settings, paths: Paths) -> dict[str, Document]:
    """The same. Raises ValueError where Envoy's types do not accept it."""
    from control.render import accepted  # noqa: PLC0415 - a second of CPU, see there; a start does without

    files = render(settings, paths)
    accepted.require({name: document for name, document in files.items() if name != tls.CHANGED})
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
