"""Changes at run time: teams made, patched, reset and removed; keys; one-off top-ups. Each is logged with who did it.

In: an administrator's wish. Out: the shared state changed, from which every worker, settler and control of every
replica has it within a second, and the workers beside us, for whom a bell is rung, at once. A change and its log entry
are one; a top-up is logged first, so that none can be made that the log does not know.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import msgspec

from extproc.budget.ledger import MAX_AMOUNT, Accounts, LedgerUnavailable, TopUp, Unit, WindowKind
from extproc.budget.plan import NANO_PER_USD, caps_for
from extproc.budget.windows import Window, Windows, windows_at
from extproc.errors import Conflict, InvalidRequest, NotFound, StateUnavailable
from extproc.paths import Paths
from extproc.process import doorbell
from extproc.process.logs import rfc3339
from extproc.settings import SettingsError, Team
from extproc.settings.rules import unknown_models
from extproc.snapshot import shared
from extproc.snapshot.current import Current
from extproc.snapshot.overrides import Overrides, TeamOverride, merged, new_team, overridden, patched
from extproc.snapshot.refresh import Refresher
from extproc.state import State

_TRIES = 10
_LONGEST_KEY_CHARS = 200
_NEW_NAME = r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,99}"


class Grant(msgspec.Struct, frozen=True):
    """A one-off top-up, as its maker wants it."""

    window: WindowKind
    unit: Literal["tokens", "usd"]
    amount: int | float

    @property
    def ledger_unit(self) -> Unit:
        """The unit the ledger counts in."""
        return "tokens" if self.unit == "tokens" else "nano_usd"

    @property
    def ledger_amount(self) -> int:
        """The amount in that unit."""
        return round(self.amount * (1 if self.unit == "tokens" else NANO_PER_USD))


# Of the team as it is, and its override as it is: the override as it is to be, and what the log is to say.
Step = Callable[[Team, TeamOverride], tuple[TeamOverride, dict[str, Any]]]
_One = Callable[[Overrides], tuple[TeamOverride, dict[str, Any]]]


class Changes:
    """Bound to the shared state and to this process's own snapshot, which shows a change as soon as it is made."""

    def __init__(self, client: State, ledger: Accounts, current: Current, refresher: Refresher, paths: Paths) -> None:
        self._client = client
        self._ledger = ledger
        self._current = current
        self._refresher = refresher
        self._paths = paths

    async def make(self, team_id: str, wish: Mapping[str, Any], who: str, now_s: float) -> None:
        """A team that gateway.yaml does not know. Raises as `patch`, and Conflict."""
        _check_wish(wish)

        def step(overrides: Overrides) -> tuple[TeamOverride, dict[str, Any]]:
            if self._configured(team_id) or overrides.teams.get(team_id, TeamOverride()).made:
                raise Conflict(f"There is a team {team_id} already.", param="id")
            made = TeamOverride(changes=dict(wish), made=True)
            return made, {"after": _differing(self._checked(_named(team_id), made), new_team(team_id))}

        await self._write(team_id, "team.create", step, who, now_s)

    async def remove(self, team_id: str, who: str, now_s: float) -> None:
        """Take a team that was made at run time away, with its keys. Raises NotFound, Conflict, StateUnavailable."""

        def step(_: Team, __: TeamOverride) -> tuple[TeamOverride, dict[str, Any]]:
            if self._configured(team_id):
                raise Conflict(f"Team {team_id} is in gateway.yaml; take it out there.", param="id")
            return TeamOverride(), {}

        await self.change(team_id, "team.delete", step, who, now_s)

    async def patch(self, team_id: str, wish: Mapping[str, Any], who: str, now_s: float) -> None:
        """Lay `wish` over the team. Raises InvalidRequest naming the field, NotFound, StateUnavailable."""
        _check_wish(wish)
        await self._settings(team_id, "team.update", lambda changes: merged(changes, wish), who, now_s)

    async def reset(self, team_id: str, who: str, now_s: float) -> None:
        """Take all patches back: the team is as gateway.yaml says. Keys stay as they are. Raises as `patch`."""
        await self._settings(team_id, "team.reset", lambda _: {}, who, now_s)

    async def _settings(
        self, team_id: str, action: str, after: Callable[[dict[str, Any]], dict[str, Any]], who: str, now_s: float
    ) -> None:
        def step(base: Team, old: TeamOverride) -> tuple[TeamOverride, dict[str, Any]]:
            new = msgspec.structs.replace(old, changes=after(old.changes))
            before, then = overridden(base, old, now_s, []), self._checked(base, new)
            return new, {"before": _differing(before, then), "after": _differing(then, before)}

        await self.change(team_id, action, step, who, now_s)

    async def change(self, team_id: str, action: str, step: Step, who: str, now_s: float) -> None:
        """Take one step with a team, and log it. Raises NotFound, StateUnavailable, and what `step` raises."""

        await self._write(team_id, action, lambda overrides: step(*self.base(team_id, overrides)), who, now_s)

    def base(self, team_id: str, overrides: Overrides) -> tuple[Team, TeamOverride]:
        """A team without what was changed of it, and that. Raises NotFound."""
        override = overrides.teams.get(team_id, TeamOverride())
        team = self._configured(team_id) or (new_team(team_id) if override.made else None)
        if team is None:
            raise NotFound(f"There is no team {team_id}.", param="id")
        return team, override

    async def _write(self, team_id: str, action: str, one: _One, who: str, now_s: float) -> None:
        try:
            for _ in range(_TRIES):
                overrides = cast(Overrides, await shared.read(self._client))
                new, told = one(overrides)
                entry = {"at": rfc3339(now_s), "who": who, "action": action, "team_id": team_id} | told
                if await shared.change(self._client, overrides.version, team_id, new, entry):
                    doorbell.ring(self._paths)
                    await self._refresher.step()
                    return
        except shared.SharedStateUnavailable:
            raise StateUnavailable(
                "The shared state cannot be reached; the change may not have been made. Try again."
            ) from None
        raise StateUnavailable("Others were changing teams all the while. Try again.", retry_after_s=1)

    async def log(self, before: str | None, most: int) -> list[tuple[str, dict[str, Any]]]:
        """What was changed, newest first, and the ids of the entries. Raises StateUnavailable."""
        try:
            return await shared.entries(self._client, before, most)
        except shared.SharedStateUnavailable:
            raise StateUnavailable("The shared state, where changes are logged, cannot be reached.") from None

    def _checked(self, base: Team, override: TeamOverride) -> Team:
        """`base` with `override`. Raises InvalidRequest naming the field."""
        models = [model.name for model in self._current.snapshot.settings.models]
        try:
            team = patched(base, override.changes)
            if problems := unknown_models("routing.auto", team.routing.auto, models):
                raise SettingsError(problems)
        except SettingsError as error:
            param = error.problems[0].partition(":")[0]
            text = "; ".join(error.problems)
            raise InvalidRequest(text if text.endswith("?") else f"{text}.", param=param) from None
        return team

    def _configured(self, team_id: str) -> Team | None:
        teams = self._current.snapshot.configured.teams
        return next((team for team in teams if team.id == team_id), None)

    async def top_up(self, team: Team, grant: Grant, key: str, who: str, now_s: float) -> dict[str, Any]:
        """Make `grant` once, however often it is asked for under the same `key`. Raises InvalidRequest,
        StateUnavailable."""
        _check_grant(team, grant, key)
        window: Window = getattr(windows_at(round(now_s * 1000), team.budget.timezone), grant.window)
        wish = msgspec.to_builtins(grant)
        entry = {"at": rfc3339(now_s), "who": who, "action": "team.topup", "team_id": team.id, "topup": wish}
        entry |= {"window_id": window.id, "window_end_ms": window.end_ms, "idempotency_key": key}
        try:
            earlier = await shared.record_once(self._client, f"{team.id}:{key}", entry)
            if earlier is not None and earlier["topup"] != wish:
                raise InvalidRequest("This idempotency-key was used for another top-up.", param="idempotency-key")
            # A repetition after midnight still means the day it was first asked for in.
            window = Window(earlier["window_id"], earlier["window_end_ms"]) if earlier else window
            made = await self._ledger.top_up(
                TopUp(
                    team_id=team.id,
                    grant_id=key,
                    window=grant.window,
                    windows=Windows(daily=window, monthly=window),
                    unit=grant.ledger_unit,
                    amount=grant.ledger_amount,
                )
            )
        except (shared.SharedStateUnavailable, LedgerUnavailable):
            raise StateUnavailable(
                "The shared state cannot be reached; the top-up may not have been made. Try again with the same key."
            ) from None
        return {"team_id": team.id, **wish, "window_id": window.id, "repeated": not made}


def _check_wish(wish: Mapping[str, Any]) -> None:
    for name in wish:
        if name in ("id", "keys"):
            raise InvalidRequest(f"{name}: cannot be changed here.", param=name)


def _named(team_id: str) -> Team:
    """A team of that name. Raises InvalidRequest unless it can be one."""
    if not re.fullmatch(_NEW_NAME, team_id):
        raise InvalidRequest("id must be letters, digits, and . _ : / @ - after the first; at most 100.", param="id")
    return new_team(team_id)


def _check_grant(team: Team, grant: Grant, key: str) -> None:
    if not 0 < len(key) <= _LONGEST_KEY_CHARS or not key.isprintable():
        raise InvalidRequest("The header idempotency-key is needed: any text, new for each top-up.", param=_KEY)
    least = 1 if grant.unit == "tokens" else 1 / NANO_PER_USD
    most = MAX_AMOUNT if grant.unit == "tokens" else MAX_AMOUNT / NANO_PER_USD
    whole = grant.unit == "usd" or isinstance(grant.amount, int)
    if not (whole and least <= grant.amount <= most):
        wanted = "a whole number of tokens" if grant.unit == "tokens" else "an amount of USD"
        raise InvalidRequest(f"amount must be {wanted} above 0, at most {most:,.0f}.", param="amount")
    if getattr(caps_for(team.budget, team.limits), f"{grant.window}_{grant.ledger_unit}") is None:
        raise InvalidRequest(f"Team {team.id} has no {grant.window} limit in {grant.unit} to add to.", param="window")


_KEY = "idempotency-key"


def shown(team: Team) -> dict[str, Any]:
    """A team's settings as they may be seen: no key, no secret."""
    values = team.model_dump(mode="json", exclude={"id", "keys"})
    values["alert"]["secret"] = None if team.alert.secret is None else "***"
    return values


def _differing(one: Team, other: Team) -> dict[str, Any]:
    """What of `one` is not as in `other`, by path; a secret that was changed is only said to be."""
    mine, theirs = _flat(one.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
    return {
        path: "***" if path == "alert.secret" and value is not None else value
        for path, value in mine.items()
        if theirs.get(path) != value and path != "keys"
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
