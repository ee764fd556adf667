"""Whether Envoy has taken a file it watches, or refused it: asked of its statistics.

In: the file's name and `version_info`. Out: None when it is in force, else why not. Source: statistics of subscriptions
(version_text, update_rejected), envoyproxy.io/docs/envoy/latest/configuration/overview/mgmt_server; of secrets
(key_rotation_failed, ssl_context_update_by_sds), …/configuration/security/secret.
"""

import asyncio
import re
from pathlib import Path

import msgspec

from extproc.process.http1 import ask

_POLL_S = 0.05
_SCOPES = {
    "cds.json": "cluster_manager.cds",
    "lds.json": "listener_manager.lds",
    "rds-ingress.json": "http.ingress.rds.ingress",
    "rds-fallback.json": "http.fallback.rds.fallback",
}


class Taken(msgspec.Struct, frozen=True):
    """What Envoy says of one file: the version in force ("" before the first), and how often it refused one."""

    version: str
    rejected: int


async def taken(admin: Path) -> dict[str, Taken]:
    """File name -> what Envoy says of it. Raises OSError, TimeoutError when it is not there."""
    names = "|".join(re.escape(scope) for scope in _SCOPES.values())
    _, text = await ask(admin, f"/stats?filter=^({names})\\.(version_text|update_rejected)$")
    values = dict(re.findall(r'^([\w.]+): "?([^"\r\n]*)"?\r?$', text, re.M))
    return {
        name: Taken(values.get(f"{scope}.version_text", ""), int(values.get(f"{scope}.update_rejected", 0)))
        for name, scope in _SCOPES.items()
    }


async def until_taken(admin: Path, name: str, version: str, before: Taken, limit_s: float) -> str | None:
    """Wait until Envoy goes by `version` of file `name`. Returns why it does not. Raises OSError, TimeoutError when it
    is not there."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while loop.time() < deadline:
        now = (await taken(admin))[name]
        if now.version == version:
            return None
        if now.rejected > before.rejected:
            return f"Envoy refused {name}; its log says why"
        await asyncio.sleep(_POLL_S)
    return f"Envoy did not take {name} within {limit_s:g} s"


class Rotated(msgspec.Struct, frozen=True):
    """How often Envoy made its TLS anew of files that had changed, and how often it could not."""

    done: int
    failed: int


async def rotated(admin: Path) -> Rotated | None:
    """None: it has no certificate yet. Raises OSError, TimeoutError when it is not there."""
    secrets = r"sds\.(certificate|client_ca)\.(key_rotation_failed|update_rejected)"
    _, text = await ask(admin, rf"/stats?filter=^({secrets}|listener\..*\.ssl_context_update_by_sds)$")
    failed = re.findall(r"^sds\..*: (\d+)\r?$", text, re.M)
    done = re.findall(r"^listener\..*: (\d+)\r?$", text, re.M)
    return Rotated(sum(map(int, done)), sum(map(int, failed))) if failed else None


async def until_rotated(admin: Path, before: Rotated, limit_s: float) -> str | None:
    """Wait until Envoy goes by the files of TLS as they are, at most `limit_s`: of files whose content is the same it
    says nothing. Returns why it does not. Raises OSError, TimeoutError when it is not there."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while True:
        now = await rotated(admin) or before
        if now.failed > before.failed:
            return "listen.tls: Envoy cannot use these files: the key is another certificate's, or one is not PEM"
        if now.done > before.done or loop.time() >= deadline:
            return None
        await asyncio.sleep(_POLL_S)
