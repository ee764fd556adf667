"""Which gateway.yaml is in force, and what came of the last change to it: one small file in `data_dir`.

In: written by the start and by every reload. Out: read by the control API (`GET /v1/config`, metrics), by the
supervisor, which logs it, and by the next reload.
"""

import hashlib
from pathlib import Path
from typing import Literal

import msgspec

from extproc import runtime
from extproc.process.files import replace_file
from extproc.settings import Settings

Result = Literal["applied", "unchanged", "refused"]


class Attempt(msgspec.Struct, frozen=True):
    """One try to change the configuration. `problems`: why it was refused, each beginning with the key's path."""

    at: float  # seconds since the epoch
    result: Result
    problems: tuple[str, ...] = ()


class ConfigStatus(msgspec.Struct, frozen=True):
    """`version`, `loaded_at`: of what is in force. `port`: what `--port` put in the place of listen.port."""

    file: str
    port: int | None
    version: str
    loaded_at: float
    last: Attempt
    applied: int = 0  # reloads since the start
    refused: int = 0

    def after(self, attempt: Attempt, version: str) -> "ConfigStatus":
        """The status after `attempt`; `version` is then in force."""
        changed = attempt.result == "applied"
        return msgspec.structs.replace(
            self,
            version=version,
            loaded_at=attempt.at if changed else self.loaded_at,
            last=attempt,
            applied=self.applied + changed,
            refused=self.refused + (attempt.result == "refused"),
        )


def version_of(settings: Settings) -> str:
    """Twelve hex digits that are the same for the same configuration, whatever its provider credentials."""
    data = runtime.without_credentials(settings).model_dump_json().encode()
    return hashlib.sha256(data).hexdigest()[:12]


def write(status: ConfigStatus, path: Path) -> None:
    """Replace the file."""
    replace_file(path, msgspec.json.encode(status))


def read(path: Path) -> ConfigStatus:
    """Read the file. Raises OSError, msgspec.DecodeError."""
    return msgspec.json.decode(path.read_bytes(), type=ConfigStatus)
