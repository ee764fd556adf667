"""`GET /v1/config`: which configuration is in force, what came of the last change, whether Envoy goes along.

In: the status file, Envoy's statistics. Out: JSON, and the same as metric families. Nothing of the file's content.
"""

from pathlib import Path
from typing import Any

import msgspec

from control import config_status
from control.acceptance import Taken, taken
from control.config_status import ConfigStatus
from control.families import Family, Sample
from extproc.paths import Paths
from extproc.process.logs import rfc3339


async def state(paths: Paths) -> dict[str, Any]:
    """What `GET /v1/config` answers. Raises OSError, msgspec.DecodeError when there is no status."""
    status = config_status.read(paths.config_status)
    return {
        "file": status.file,
        "version": status.version,
        "loaded_at": rfc3339(status.loaded_at),
        "status": status.last.result,
        "last_attempt_at": rfc3339(status.last.at),
        "problems": list(status.last.problems),
        "reloads": {"applied": status.applied, "refused": status.refused},
        "envoy": {name: msgspec.to_builtins(said) for name, said in (await _envoy(paths.admin_socket)).items()},
    }


async def families(paths: Paths) -> list[Family]:
    """The same as metrics; none where there is no status."""
    try:
        status = config_status.read(paths.config_status)
    except (OSError, msgspec.DecodeError):
        return []
    return [*_of_status(status), _of_envoy(await _envoy(paths.admin_socket))]


async def _envoy(admin: Path) -> dict[str, Taken]:
    """What Envoy says of its files; nothing while it is not there."""
    try:
        return await taken(admin)
    except (OSError, TimeoutError):
        return {}


def _of_status(status: ConfigStatus) -> list[Family]:
    return [
        Family(
            name="gateway.config.reloads",
            kind="counter",
            text="Changes of gateway.yaml by what came of them.",
            samples=[Sample({"result": "applied"}, status.applied), Sample({"result": "refused"}, status.refused)],
        ),
        Family(
            name="gateway.config.last_reload_successful",
            kind="gauge",
            text="0 when the last change of gateway.yaml was refused.",
            samples=[Sample({}, float(status.last.result != "refused"))],
        ),
        Family(
            name="gateway.config.info",
            kind="gauge",
            text="The version of the configuration in force, as a label.",
            samples=[Sample({"version": status.version}, 1)],
        ),
    ]


def _of_envoy(said: dict[str, Taken]) -> Family:
    return Family(
        name="gateway.envoy.config_rejected",
        kind="counter",
        text="Rendered files that Envoy refused since it started.",
        samples=[Sample({"file": name}, one.rejected) for name, one in said.items()],
    )
