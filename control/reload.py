"""A changed gateway.yaml, taken over by a gateway that runs: checked, rendered, swapped file by file, or refused whole.

In: the configuration file, the environment. Out: an `Attempt`, also written to the status file. Runs in a process of
its own (`gateway reload`), which ends after it: only there are credentials in memory. Envoy gets secrets, clusters,
listeners and routes first, and each is waited for; then the runtime file, from which workers take the new snapshot when
their bell is rung, settler and control within half a second. Clusters of providers that are gone stay until the next
reload, for the requests that still know them.
"""

import asyncio
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

from control import config_status, kept, render
from control.acceptance import Rotated, Taken, rotated, taken, until_rotated, until_taken
from control.config_status import Attempt
from control.prepare import as_started
from control.render import tls, whole
from control.staged import Staged
from extproc import runtime
from extproc.paths import Paths
from extproc.process import doorbell
from extproc.settings import Settings, SettingsError, load
from extproc.wire import chain_cluster, provider_cluster

_TAKE_S = 10.0
_ROTATE_S = 2.0
# What was decided when the processes were started.
_SOCKETS = ("listen.host", "listen.port", "listen.unix_socket", "listen.unix_socket_mode", "listen.ops")
FIXED = (*_SOCKETS, "listen.max_memory", "data_dir", "workers", "state", "streams", "transport")

Document = dict[str, Any]


class RefusedError(Exception):
    """The change is not taken over; everything stays as it was."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


async def reload(config: Path, paths: Paths, env: Mapping[str, str]) -> Attempt:
    """Take over `config`. `env` wins over what was kept of the environment of the start. Raises OSError (the disk is
    full): nothing has changed then, or only the word on what has is missing."""
    with _alone(paths):
        status = config_status.read(paths.config_status)
        version = status.version
        try:
            changed, version = await _take_over(
                config, status.port, paths, kept.read(paths.kept_environment) | dict(env)
            )
            attempt = Attempt(time.time(), "applied" if changed else "unchanged")
        except RefusedError as error:
            attempt = Attempt(time.time(), "refused", error.problems)
        config_status.write(status.after(attempt, version), paths.config_status)
        return attempt


@contextmanager
def _alone(paths: Paths) -> Iterator[None]:
    """One reload at a time."""
    with (paths.data_dir / "reload.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


async def _take_over(config: Path, port: int | None, paths: Paths, env: Mapping[str, str]) -> tuple[bool, str]:
    """Whether anything changed, and the version in force. Raises RefusedError."""
    old = runtime.read(paths.runtime)
    try:
        new = as_started(load(config, env), port)
    except SettingsError as error:
        raise RefusedError(*error.problems) from None
    fixed = [name for name in FIXED if attrgetter(name)(old) != attrgetter(name)(new)]
    if fixed:
        raise RefusedError(*(f"{name}: cannot be changed while the gateway runs; restart it" for name in fixed))
    try:
        files = _with_leftovers(whole.rendered(new, paths), new, old, paths)
        changes = _changes(files, paths)
        wrong = await whole.verdict(new, paths.data_dir) if changes else None
    except ValueError as error:
        raise RefusedError(str(error)) from None
    if wrong is not None:
        raise RefusedError(wrong)
    version = config_status.version_of(new)
    renewed = version != config_status.version_of(old)
    ours = {paths.kept_environment: kept.encoded(config, env)}
    if renewed:
        ours[paths.runtime] = runtime.encoded(new)
    with Staged({paths.envoy / name: data for name, data in changes.items()} | ours) as staged:
        await _swap(changes, paths, staged)
        for path in ours:
            staged.put(path)
    if renewed:
        doorbell.ring(paths)
        render.remove_secrets(paths, keep={*files, *(f"secrets/{name}.json" for name in old.providers)})
    return bool(changes) or renewed, version


def _with_leftovers(files: dict[str, Document], new: Settings, old: Settings, paths: Paths) -> dict[str, Document]:
    """`files`, and the clusters of the providers that `old` had and `new` has not. Where nothing is new, those that
    were left by the change before."""
    resources = files["cds.json"]["resources"]
    here = {cluster["name"] for cluster in resources}
    before = json.loads((paths.envoy / "cds.json").read_bytes())["resources"]
    again = config_status.version_of(new) == config_status.version_of(old)
    gone = {
        name
        for provider in old.providers
        for name in (provider_cluster(provider), *(chain_cluster(provider, index) for index in range(old.workers)))
    }
    left = [cluster for cluster in before if cluster["name"] not in here and (again or cluster["name"] in gone)]
    return {**files, "cds.json": render.discovery([*resources, *left])}


def _changes(files: dict[str, Document], paths: Paths) -> dict[str, bytes]:
    """The files that are not on disk as they are to be."""
    wanted = {name: render.encoded(document) for name, document in files.items()}
    return {name: data for name, data in wanted.items() if _content(paths.envoy / name) != data}


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


async def _swap(changes: Mapping[str, bytes], paths: Paths, staged: Staged) -> None:
    """Replace the files in order, each when Envoy has taken the one before. Raises RefusedError when it does not."""
    for name in render.in_order(changes):
        known = await _known(paths, name)
        staged.put(paths.envoy / name)
        wrong = await _refusal(paths, name, changes[name], known)
        if wrong is not None:
            raise RefusedError(wrong)


async def _known(paths: Paths, name: str) -> Taken | Rotated | None:
    """What Envoy says of a file before it is replaced; None: it is not there, or says nothing of this one."""
    try:
        if name == tls.CHANGED:
            return await rotated(paths.admin_socket)
        return (await taken(paths.admin_socket)).get(name)
    except (OSError, TimeoutError):
        return None


async def _refusal(paths: Paths, name: str, data: bytes, known: Taken | Rotated | None) -> str | None:
    if known is None:  # a secret, the bootstrap; or Envoy is being restarted, and reads what it finds
        return None
    try:
        if isinstance(known, Rotated):
            return await until_rotated(paths.admin_socket, known, _ROTATE_S)
        return await until_taken(paths.admin_socket, name, json.loads(data)["version_info"], known, _TAKE_S)
    except (OSError, TimeoutError):
        return None


def running(paths: Paths) -> bool:
    """Whether a gateway runs on this data directory."""
    try:
        descriptor = os.open(paths.data_dir / "lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def run(config: Path, paths: Paths, env: Mapping[str, str]) -> Attempt:
    """`gateway reload`, run to its end."""
    return asyncio.run(reload(config, paths, env))
