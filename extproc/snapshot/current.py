"""The one snapshot that a process goes by, and how it is swapped. Pure.

In: Settings (the runtime file; again when gateway.yaml was reloaded) and Overrides (the shared state). Out:
`Current.snapshot`, which is replaced whole and never changed: whoever has taken it for a request keeps it to the
request's end.
"""

import logging
from collections.abc import Callable, Mapping

import msgspec

from extproc.catalog import Catalog, compile_catalog
from extproc.settings import Settings, Team
from extproc.snapshot.overrides import NONE, Overrides, apply

log = logging.getLogger(__name__)


class Snapshot(msgspec.Struct, frozen=True):
    """The configuration at a moment, changes at run time included."""

    configured: Settings  # without them
    overrides: Overrides
    settings: Settings  # with them
    teams: Mapping[str, Team]  # by id
    catalog: Catalog
    until_s: float | None = None  # when a key ends, and with it what this says; None: only with a change


def compile_snapshot(configured: Settings, overrides: Overrides = NONE, now_s: float = 0.0) -> Snapshot:
    """Put both together, as they are at `now_s`. What of the overrides does not fit is left out, with a log line."""
    settings, problems = apply(configured, overrides, now_s)
    for problem in problems:
        log.warning("run-time change not applied", extra={"reason": problem})
    teams = {team.id: team for team in settings.teams}
    return Snapshot(
        configured, overrides, settings, teams, compile_catalog(settings), until_s=overrides.next_end_s(now_s)
    )


class Current:
    """The snapshot now. Each of `on_swap` is called with every new one, on the event loop."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.on_swap: list[Callable[[Snapshot], None]] = []

    def swap(self, snapshot: Snapshot) -> None:
        """Go by `snapshot` from now on."""
        self.snapshot = snapshot
        for told in self.on_swap:
            told(snapshot)

    def team(self, team_id: str) -> Team | None:
        """The settings of a team; None: there is no such team."""
        return self.snapshot.teams.get(team_id)
