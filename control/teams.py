"""`/v1/teams`: a team's settings, changed at run time; its top-ups; `/v1/audit`: who changed what.

In: requests of administrators. Out: JSON. What a change means and where it goes is in `changes`.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from control.auth import Caller
from control.auth import shown as shown_key
from control.changes import Changes, Grant, shown
from control.web import answer, json_object, query, whole_number
from extproc.budget.ledger import Account, Accounts, LedgerUnavailable
from extproc.budget.windows import windows_at
from extproc.errors import InvalidRequest, NotFound
from extproc.settings import Team
from extproc.snapshot.current import Current
from extproc.snapshot.overrides import TeamOverride

CallerOf = Callable[[web.Request], Caller]

_MOST_ENTRIES = 1_000


class TeamsApi:
    """The handlers. `caller_of`: who sends a request; raises for nobody."""

    def __init__(
        self,
        current: Current,
        changes: Changes,
        ledger: Accounts,
        caller_of: CallerOf,
        wall_s: Callable[[], float],
    ) -> None:
        self._current = current
        self._changes = changes
        self._ledger = ledger
        self._caller_of = caller_of
        self._wall_s = wall_s

    def routes(self) -> list[web.RouteDef]:
        """Every path that is served here."""
        return [
            web.get("/v1/teams", self.list),
            web.get("/v1/teams/{id}", self.show),
            web.patch("/v1/teams/{id}", self.patch),
            web.delete("/v1/teams/{id}/overrides", self.reset),
            web.post("/v1/teams/{id}/topups", self.top_up),
            web.get("/v1/audit", self.audit),
        ]

    async def list(self, request: web.Request) -> web.Response:
        """All teams."""
        self._admin(request)
        query(request, ())
        return answer({"teams": [self._shown(team) for team in self._current.snapshot.settings.teams]})

    async def show(self, request: web.Request) -> web.Response:
        """One team, with its top-ups."""
        self._admin(request)
        query(request, ())
        return await self._answer(self._team(request))

    async def patch(self, request: web.Request) -> web.Response:
        """Change what the body names; null is no limit."""
        who = self._admin(request)
        team_id = self._team(request).id
        await self._changes.patch(team_id, await json_object(request), who, self._wall_s())
        return await self._answer(self._team(request))

    async def reset(self, request: web.Request) -> web.Response:
        """Back to gateway.yaml."""
        who = self._admin(request)
        await self._changes.reset(self._team(request).id, who, self._wall_s())
        return await self._answer(self._team(request))

    async def top_up(self, request: web.Request) -> web.Response:
        """Add to one window's limit, once for each idempotency-key."""
        who = self._admin(request)
        grant = _grant(await json_object(request))
        key = request.headers.get("Idempotency-Key", "").strip()
        return answer(await self._changes.top_up(self._team(request), grant, key, who, self._wall_s()))

    async def audit(self, request: web.Request) -> web.Response:
        """The log of changes, newest first."""
        self._admin(request)
        given = query(request, ("limit", "cursor"))
        limit = whole_number(given, "limit", 100, 1, _MOST_ENTRIES)
        found = await self._changes.log(_cursor(given.get("cursor")), limit + 1)
        page = [{"id": entry_id, **entry} for entry_id, entry in found[:limit]]
        return answer({"entries": page, "next_cursor": page[-1]["id"] if len(found) > limit else None})

    def _admin(self, request: web.Request) -> str:
        """Who the administrator is, as the log calls them. Raises InvalidApiKey, PermissionDenied."""
        caller = self._caller_of(request)
        caller.require_admin()
        return caller.key

    def _team(self, request: web.Request) -> Team:
        team = self._current.team(request.match_info["id"])
        if team is None:
            raise NotFound(f"There is no team {request.match_info['id']}.", param="id")
        return team

    async def _answer(self, team: Team) -> web.Response:
        return answer(self._shown(team) | {"topups": await self._top_ups(team)})

    def _shown(self, team: Team) -> dict[str, Any]:
        override = self._current.snapshot.overrides.teams.get(team.id, TeamOverride())
        return {
            "team_id": team.id,
            **shown(team),
            "keys": [shown_key(key) for key in team.keys],
            "overridden": sorted(override.changes),  # what gateway.yaml does not decide any more
        }

    async def _top_ups(self, team: Team) -> dict[str, Any] | None:
        """What was added to the windows of now; None: not known, the ledger is away."""
        now_ms = round(self._wall_s() * 1000)
        try:
            usage = await self._ledger.usage(team.id, now_ms, windows_at(now_ms, team.budget.timezone))
        except LedgerUnavailable:
            return None
        return {"daily": _added(usage.standing.daily), "monthly": _added(usage.standing.monthly)}


def _added(account: Account) -> dict[str, float]:
    return {"tokens": account.topup_tokens, "usd": account.topup_nano_usd / 1e9}


def _grant(body: dict[str, Any]) -> Grant:
    """Raises InvalidRequest, naming the field."""
    for name in body:
        if name not in Grant.__struct_fields__:
            raise InvalidRequest(f"Unknown field {name!r}; known are window, unit, amount.", param=name)
    for name in Grant.__struct_fields__:
        if name not in body:
            raise InvalidRequest(f"{name} is missing.", param=name)
    try:
        return msgspec.convert(body, Grant)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$.")
        raise InvalidRequest(f"{path.rstrip('`')}: {text}.", param=path.rstrip("`")) from None


def _cursor(text: str | None) -> str | None:
    if text is not None and not all(part.isdigit() and part.isascii() for part in text.split("-", 1)):
        raise InvalidRequest("cursor must be the next_cursor of an earlier answer.", param="cursor")
    return text
