"""`/v1/teams`: teams made, changed and removed at run time; their top-ups; `/v1/audit`: who changed what.

In: requests of administrators. Out: JSON. What a change means and where it goes is in `changes`.
"""

import re
from collections.abc import Callable
from typing import Any

from aiohttp import web

from control.auth import Caller
from control.auth import shown as shown_key
from control.changes import Changes, Grant, shown
from control.web import answer, body_of, json_object, query, whole_number
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
            web.post("/v1/teams", self.create),
            web.get("/v1/teams/{id}", self.show),
            web.patch("/v1/teams/{id}", self.patch),
            web.delete("/v1/teams/{id}", self.delete),
            web.delete("/v1/teams/{id}/overrides", self.reset),
            web.post("/v1/teams/{id}/topups", self.top_up),
            web.get("/v1/audit", self.audit),
        ]

    async def list(self, request: web.Request) -> web.Response:
        """All teams."""
        self._admin(request)
        query(request, ())
        return answer({"teams": [self._shown(team) for team in self._current.snapshot.settings.teams]})

    async def create(self, request: web.Request) -> web.Response:
        """A team that gateway.yaml does not know; it has no key yet."""
        who = self._admin(request)
        wish = await json_object(request)
        team_id = wish.pop("id", None)
        if not isinstance(team_id, str):
            raise InvalidRequest("id is needed: the team's name, a string.", param="id")
        await self._changes.make(team_id, wish, who, self._wall_s())
        return await self._answer(self._named(team_id), 201)

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

    async def delete(self, request: web.Request) -> web.Response:
        """Take a team that was made here away, and its keys with it; its rows in the audit stay."""
        who = self._admin(request)
        query(request, ())
        team_id = self._team(request).id
        await self._changes.remove(team_id, who, self._wall_s())
        return answer({"team_id": team_id, "deleted": True})

    async def reset(self, request: web.Request) -> web.Response:
        """Back to gateway.yaml."""
        who = self._admin(request)
        query(request, ())
        await self._changes.reset(self._team(request).id, who, self._wall_s())
        return await self._answer(self._team(request))

    async def top_up(self, request: web.Request) -> web.Response:
        """Add to one window's limit, once for each idempotency-key."""
        who = self._admin(request)
        grant = await body_of(request, Grant)
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
        return self._named(request.match_info["id"])

    def _named(self, team_id: str) -> Team:
        team = self._current.team(team_id)
        if team is None:
            raise NotFound(f"There is no team {team_id}.", param="id")
        return team

    async def _answer(self, team: Team, status: int = 200) -> web.Response:
        return answer(self._shown(team) | {"topups": await self._top_ups(team)}, status)

    def _shown(self, team: Team) -> dict[str, Any]:
        override = self._current.snapshot.overrides.teams.get(team.id, TeamOverride())
        return {
            "team_id": team.id,
            "source": "api" if override.made else "file",
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


def _cursor(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[0-9]{1,19}(-[0-9]{1,19})?", text):
        raise InvalidRequest("cursor must be the next_cursor of an earlier answer.", param="cursor")
    return text
