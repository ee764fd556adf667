"""Changes of teams at run time, and what the configuration is with them applied. Pure.

In: Settings of gateway.yaml, Overrides out of the shared state. Out: Settings in which each team is as it is to be.
An override is a JSON merge patch (RFC 7396) of the team, but that null stays null ("no limit"), and the digests of keys
made or revoked since. What no longer fits the file (its team is gone, the file changed) is left out, and told.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from extproc.settings import Settings, SettingsError, Team, parse_team


class TeamOverride(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was changed of one team. Keys are `sha256:<hex>`; a revoked one is refused wherever it came from."""

    changes: dict[str, Any] = {}
    keys_added: tuple[str, ...] = ()
    keys_revoked: tuple[str, ...] = ()


class Overrides(msgspec.Struct, frozen=True):
    """All of them. `version` grows with each change; 0: nothing was ever changed."""

    version: int = 0
    teams: Mapping[str, TeamOverride] = {}


NONE = Overrides()


def merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `patch`, objects member by member; null is a value like another."""
    result = dict(base)
    for name, value in patch.items():
        old = result.get(name)
        result[name] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def patched(team: Team, changes: Mapping[str, Any]) -> Team:
    """`team` with `changes`. Raises SettingsError, whose lines begin with the path of what is wrong."""
    return parse_team(merged(team.model_dump(), changes)) if changes else team


def apply(settings: Settings, overrides: Overrides) -> tuple[Settings, list[str]]:
    """`settings` with `overrides`, and a line for each thing that could not be applied."""
    if not overrides.teams:
        return settings, []
    problems: list[str] = []
    teams = [overridden(team, overrides.teams.get(team.id), problems) for team in settings.teams]
    teams = _without_shared_keys(teams, settings, problems)
    known = {team.id for team in teams}
    problems += [f"team {team_id}: not in the configuration" for team_id in overrides.teams if team_id not in known]
    return settings.model_copy(update={"teams": teams}), problems


def overridden(team: Team, override: TeamOverride | None, problems: list[str]) -> Team:
    """`team` with `override`, or without its changes, and lines in `problems`, where they do not fit."""
    if override is None:
        return team
    try:
        changed = patched(team, override.changes)
    except SettingsError as error:
        problems += [f"team {team.id}: {problem}" for problem in error.problems]
        changed = team
    keys = dict.fromkeys((*team.keys, *override.keys_added))
    return changed.model_copy(update={"keys": [key for key in keys if key not in override.keys_revoked]})


def _without_shared_keys(teams: Sequence[Team], settings: Settings, problems: list[str]) -> list[Team]:
    """A key made at run time gives way to one of the file, which may have come to be the same."""
    owners = {key: team.id for team in settings.teams for key in team.keys} | dict.fromkeys(settings.admin.keys, "")
    result = []
    for team in teams:
        keys = [key for key in team.keys if owners.setdefault(key, team.id) == team.id]
        if len(keys) < len(team.keys):
            problems.append(f"team {team.id}: a key of it belongs to another team, or is an admin key")
        result.append(team.model_copy(update={"keys": keys}))
    return result
