"""Changes at run time in the shared state: read by every process of every replica, written by control.

In: `{gw:overrides}`, a hash with a version and a field per changed team, and `{gw:overrides}:log`, a stream with who
changed what. Out: Overrides, log entries. Every call raises SharedStateUnavailable where the state cannot be reached.
"""

from collections.abc import Mapping
from importlib import resources
from typing import Any

import msgspec
from redis.exceptions import RedisClusterException, RedisError

from extproc.budget.redis import Client
from extproc.snapshot.overrides import Overrides, TeamOverride

KEY = "{gw:overrides}"
LOG_KEY = f"{KEY}:log"
LOG_KEPT = 100_000  # entries; about 50 MB
_VERSION = "version"
_TEAM = "team:"
_CHANGE = (resources.files("extproc.snapshot") / "change.lua").read_text()
_AWAY = (RedisError, RedisClusterException, OSError, TimeoutError)


class SharedStateUnavailable(Exception):
    """The shared state could not be reached, or did not answer in time."""


async def read(client: Client, known: int = -1) -> Overrides | None:
    """All overrides; None if their version is still `known`."""
    version = int(await _run(client, "HGET", KEY, _VERSION) or 0)
    if version == known:
        return None
    flat = await _run(client, "HGETALL", KEY)
    return _overrides(flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True)))


async def change(client: Client, against: int, team_id: str, override: TeamOverride, entry: Mapping[str, Any]) -> int:
    """Set a team's override, and log it. Returns the new version; 0: someone else changed something after `against`."""
    value = b"" if override == TeamOverride() else msgspec.json.encode(override)
    arguments = (against, f"{_TEAM}{team_id}", value, msgspec.json.encode(entry), LOG_KEPT)
    return int(await _run(client, "EVAL", _CHANGE, 1, KEY, *arguments))


async def _run(client: Client, *command: str | int | bytes) -> Any:
    try:
        return await client.execute_command(*command)
    except _AWAY as error:
        raise SharedStateUnavailable(f"{type(error).__name__}: {error}") from error


def _overrides(fields: Mapping[bytes, bytes]) -> Overrides:
    """Raises msgspec.DecodeError for what is not ours."""
    named = {name.decode(): value for name, value in fields.items()}
    teams = {
        name.removeprefix(_TEAM): msgspec.json.decode(value, type=TeamOverride)
        for name, value in named.items()
        if name.startswith(_TEAM)
    }
    return Overrides(int(named.get(_VERSION, b"0")), teams)
