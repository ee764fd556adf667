"""The first half of `gateway up`: everything that needs provider credentials, or can fail before anything runs.

In: the configuration file, the operator's environment, `--port`. Out: a locked data directory with the runtime file and
Envoy's configuration in it, and the environment to go on in. After it the supervisor replaces itself (`execve`) by a
process that never held a credential.
"""

import asyncio
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from control import config_status, kept
from control.config_status import Attempt, ConfigStatus
from control.environment import without_credentials
from control.render import whole
from control.render import write as write_envoy_config
from extproc import runtime
from extproc.paths import Paths
from extproc.settings import Listen, Settings, load


class StartError(Exception):
    """The gateway cannot start here, though its configuration is right. One line, for the operator."""


class Prepared(msgspec.Struct, frozen=True):
    """What the second half needs."""

    paths: Paths
    lock_fd: int  # holds the data directory; survives execve
    env: dict[str, str]


def prepare(config: Path, port: int | None, env: Mapping[str, str]) -> Prepared:
    """Check everything and write everything. Raises SettingsError, StartError."""
    settings = as_started(load(config, env), port)
    require_free(settings.listen)
    return write_all(config, port, settings, env)


def write_all(config: Path, port: int | None, settings: Settings, env: Mapping[str, str]) -> Prepared:
    """Take the data directory and write everything into it. Raises StartError."""
    paths = Paths.of(settings.data_dir)
    try:
        lock_fd = lock(paths.data_dir)
        _make_socket_directory(paths.sockets, paths.data_dir)
        _remove_stale_sockets(paths)
        runtime.write(settings, paths.runtime)
        write_envoy_config(settings, paths)
        kept.write(config, env, paths.kept_environment)
        config_status.write(_first_status(config, port, settings), paths.config_status)
        wrong = asyncio.run(whole.verdict(settings, paths.data_dir)) if settings.listen.tls else None
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror or error)
        raise StartError(f"data_dir {paths.data_dir} cannot be used: {reason}") from None
    if wrong is not None:
        raise StartError(f"listen.tls: {wrong}")
    return Prepared(paths=paths, lock_fd=lock_fd, env=without_credentials(env, settings))


def _first_status(config: Path, port: int | None, settings: Settings) -> ConfigStatus:
    now_s = time.time()
    version = config_status.version_of(settings)
    return ConfigStatus(str(config.absolute()), port, version, now_s, Attempt(now_s, "applied"))


def as_started(settings: Settings, port: int | None) -> Settings:
    """`settings` with what the command line and the working directory make of them."""
    changes: dict[str, object] = {"data_dir": settings.data_dir.absolute()}
    listen: dict[str, object] = {}
    if settings.listen.unix_socket is not None:
        listen["unix_socket"] = settings.listen.unix_socket.absolute()
    if port is not None:
        listen["port"] = port
    changes["listen"] = settings.listen.model_copy(update=listen)
    return settings.model_copy(update=changes)


def require_free(listen: Listen) -> None:
    """Raise StartError unless the gateway can listen where it is to."""
    if listen.port is not None:
        require_free_port(listen.host, listen.port)
    if listen.ops is not None:
        require_free_port(listen.ops.host, listen.ops.port)
    if listen.unix_socket is not None:
        require_free_socket(listen.unix_socket)


def require_free_socket(path: Path) -> None:
    """Raise StartError unless a socket can be made at `path`. One that nobody serves is Envoy's to replace."""
    if not path.parent.is_dir():
        raise StartError(f"listen.unix_socket: the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise StartError(f"listen.unix_socket: the folder {path.parent} cannot be written")
    if path.exists() and not path.is_socket():
        raise StartError(f"listen.unix_socket: {path} is there already, and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise StartError(f"listen.unix_socket: {path} is served by another process")


def require_free_port(host: str, port: int) -> None:
    """Raise StartError unless `port` can be opened on `host`.

    Envoy opens its port with SO_REUSEPORT, so two of them would share one without a word: hence a socket without it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except socket.gaierror as error:
        raise StartError(f"listen.host {host} is not an address of this machine: {error.strerror}") from None
    except OSError as error:
        reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be opened: {error.strerror}"
        raise StartError(f"port {port} on {host} {reason}") from None


def lock(data_dir: Path) -> int:
    """Take `data_dir` for this gateway, for as long as the returned descriptor is open here or after `execve`.

    Raises StartError if another gateway holds it, OSError if it cannot be written.
    """
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 20).decode(errors="replace").strip()
        os.close(descriptor)
        raise StartError(f"data_dir {data_dir} is in use by another gateway (process {owner or '?'})") from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    os.set_inheritable(descriptor, True)  # across our own execve; children are started with it closed
    return descriptor


def _make_socket_directory(directory: Path, data_dir: Path) -> None:
    """Below a shared directory such as /tmp someone else may have made it first: then it is not used. Below our own it
    may be a volume, made by whoever runs the pod."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = directory.lstat()
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if ours:
        directory.chmod(0o700)
    elif directory.parent != data_dir:
        raise StartError(f"the socket directory {directory} belongs to someone else")


def _remove_stale_sockets(paths: Paths) -> None:
    """What a killed gateway left behind. We hold the lock, so nobody listens there."""
    for path in (*paths.sockets.glob("*.sock"), paths.valkey_socket):
        path.unlink(missing_ok=True)
