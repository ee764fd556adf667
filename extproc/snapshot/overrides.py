"""Changes of teams at run time, and what the configuration is with them applied. Pure.

In: Settings of gateway.yaml, Overrides out of the shared state, the time. Out: Settings in which each team is as it is
to be at that time. An override is a JSON merge patch (RFC 7396) of the team, but that null stays null ("no limit"), the
digests of keys made or revoked since, or a whole team that the file does not know. What no longer fits the file (its
team is gone, the file changed) is left out, and told.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from extproc.settings import Settings, SettingsError, Team, parse_team


class MadeKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key made at run time. Times in seconds since the epoch; the key itself is kept nowhere."""

    digest: str  # sha256:<hex>
    last_four: str
    created_at: float
    created_by: str  # the beginning of the digest of the administrator's key
    name: str = ""
    expires_at: float | None = None


class TeamOverride(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was changed of one team. A revoked key (`sha256:<hex>`, from when on) is refused wherever it came from."""

    changes: dict[str, Any] = {}
    keys_made: tuple[MadeKey, ...] = ()
    keys_revoked: dict[str, float] = {}
    made: bool = False  # the team itself, at run time

    def ends_at(self, digest: str) -> float | None:
        """When a key ends, or ended, in seconds since the epoch; None: never."""
        expiries = [key.expires_at for key in self.keys_made if key.digest == digest]
        ends = [end for end in (*expiries, self.keys_revoked.get(digest)) if end is not None]
        return min(ends, default=None)


class Overrides(msgspec.Struct, frozen=True):
    """All of them. `version` grows with each change; 0: nothing was ever changed."""

    version: int = 0
    teams: Mapping[str, TeamOverride] = {}

    def next_end_s(self, now_s: float) -> float | None:
        """When the next key ends after `now_s`: from then on `apply` gives something else."""
        ends = [key.expires_at for team in self.teams.values() for key in team.keys_made if key.expires_at is not None]
        ends += [end for team in self.teams.values() for end in team.keys_revoked.values()]
        return min((end for end in ends if end > now_s), default=None)


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
    return parse_team(merged(team.model_dump(mode="json"), changes)) if changes else team


def apply(settings: Settings, overrides: Overrides, now_s: float = 0.0) -> tuple[Settings, list[str]]:
    """`settings` with `overrides`, and a line for each thing that could not be applied."""
    if not overrides.teams:
        return settings, []
    problems: list[str] = []
    teams = [overridden(team, overrides.teams.get(team.id), now_s, problems) for team in settings.teams]
    known = {team.id for team in teams}
    for team_id, override in overrides.teams.items():
        if team_id not in known and override.made:
            teams += _made(team_id, override, now_s, problems)
        elif team_id not in known:
            problems.append(f"team {team_id}: not in the configuration")
    return settings.model_copy(update={"teams": _without_shared_keys(teams, settings, problems)}), problems


def overridden(team: Team, override: TeamOverride | None, now_s: float, problems: list[str]) -> Team:
    """`team` with `override`, or without its changes, and lines in `problems`, where they do not fit."""
    if override is None:
        return team
    try:
        changed = patched(team, override.changes)
    except SettingsError as error:
        problems += [f"team {team.id}: {problem}" for problem in error.problems]
        changed = team
    keys = dict.fromkeys((*team.keys, *(key.digest for key in override.keys_made)))
    return changed.model_copy(update={"keys": [key for key in keys if holds(override, key, now_s)]})


def holds(override: TeamOverride, digest: str, now_s: float) -> bool:
    """Whether a key of the team is good at `now_s`."""
    end_s = override.ends_at(digest)
    return end_s is None or end_s > now_s


def new_team(team_id: str) -> Team:
    """A team that the file does not know, before anything is said of it: no key, no limit."""
    return Team(id=team_id, keys=[])


def _made(team_id: str, override: TeamOverride, now_s: float, problems: list[str]) -> list[Team]:
    """The team, in a list; none where its settings do not fit any more: without them it would have no limits."""
    misfits: list[str] = []
    team = overridden(new_team(team_id), override, now_s, misfits)
    problems += misfits
    return [] if misfits else [team]


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
