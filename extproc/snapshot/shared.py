"""Changes at run time in the shared state: read by every process of every replica, written by control.

In: `{gw:overrides}`, a hash with a version and a field per changed team, and `{gw:overrides}:log`, a stream with who
changed what. Out: Overrides, log entries. Every call raises SharedStateUnavailable where the state cannot be reached.
"""

from collections.abc import Mapping
from importlib import resources
from typing import Any, cast

import msgspec

from extproc.snapshot.overrides import Overrides, TeamOverride
from extproc.state import AWAY, State

KEY = "{gw:overrides}"
LOG_KEY = f"{KEY}:log"
LOG_KEPT = 100_000  # entries; about 50 MB
ONCE_KEPT_MS = 40 * 86_400_000  # longer than any window, so that a repetition is known as one
_VERSION = "version"
_TEAM = "team:"
_CHANGE, _RECORD = ((resources.files("extproc.snapshot") / f"{name}.lua").read_text() for name in ("change", "record"))


class SharedStateUnavailable(Exception):
    """The shared state could not be reached, or did not answer in time."""


async def read(client: State, known: int = -1) -> Overrides | None:
    """All overrides; None if their version is still `known`."""
    version = int(await _run(client, "HGET", KEY, _VERSION) or 0)
    if version == known:
        return None
    flat = await _run(client, "HGETALL", KEY)
    return _overrides(flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True)))


async def change(client: State, against: int, team_id: str, override: TeamOverride, entry: Mapping[str, Any]) -> int:
    """Set a team's override, and log it. Returns the new version; 0: someone else changed something after `against`."""
    value = b"" if override == TeamOverride() else msgspec.json.encode(override)
    arguments = (against, f"{_TEAM}{team_id}", value, msgspec.json.encode(entry), LOG_KEPT)
    return int(await _run(client, "EVAL", _CHANGE, 1, KEY, *arguments))


async def record_once(client: State, entry_id: str, entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """Log `entry`; or, if one of that id was logged before, return that and log nothing."""
    keys = (LOG_KEY, f"{LOG_KEY}:{entry_id}")
    known = await _run(client, "EVAL", _RECORD, 2, *keys, msgspec.json.encode(entry), LOG_KEPT, ONCE_KEPT_MS)
    return None if known is None else cast(dict[str, Any], msgspec.json.decode(known))


async def entries(client: State, before: str | None, most: int) -> list[tuple[str, dict[str, Any]]]:
    """Log entries and their ids, newest first; `before`: only those older than the entry of that id."""
    newest = "+" if before is None else f"({before}"
    found = await _run(client, "XREVRANGE", LOG_KEY, newest, "-", "COUNT", most)
    return [(entry_id.decode(), msgspec.json.decode(_entry(fields))) for entry_id, fields in found]


def _entry(fields: Any) -> bytes:
    return cast(bytes, fields[b"entry"] if isinstance(fields, dict) else fields[1])


async def _run(client: State, *command: str | int | bytes) -> Any:
    try:
        return await client.execute_command(*command)
    except AWAY as error:
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
