"""The runtime file: gateway.yaml as the serving processes see it.

In: checked Settings. Out: the same Settings as JSON, with everything expanded, demo stand-ins resolved, and no provider
credential: workers, settler and control cannot leak what they never had. Written by the supervisor, read at start.
"""

import os
import tempfile
from pathlib import Path

from extproc.settings import Settings


def without_credentials(settings: Settings) -> Settings:
    """`settings` with provider credentials dropped and simulated providers turned into `format: demo`."""
    providers = {}
    for name, provider in settings.providers.items():
        changes: dict[str, object] = {"credential": None}
        if provider.is_demo and provider.format != "demo":
            changes |= {"format": "demo", "speaks": provider.format, "base_url": None}
        providers[name] = provider.model_copy(update=changes)
    return settings.model_copy(update={"providers": providers})


def write(settings: Settings, path: Path) -> None:
    """Write the runtime file atomically, readable by the owner only."""
    replace_file(path, encoded(settings))


def encoded(settings: Settings) -> bytes:
    """The content of a runtime file."""
    return without_credentials(settings).model_dump_json().encode()


def read(path: Path) -> Settings:
    """Read a runtime file written by `write`."""
    return Settings.model_validate_json(path.read_bytes())


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write `data` to `path` by rename, so that a reader (Envoy watches for the rename) never sees half a file."""
    temporary = beside(path, data, mode)
    try:
        os.replace(temporary, path)  # noqa: PTH105 - rename is the point
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def beside(path: Path, data: bytes, mode: int = 0o600) -> Path:
    """A new file in the folder of `path`, with `data`. Raises OSError, with nothing left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(handle, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return Path(temporary)
