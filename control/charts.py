"""`/v1/usage/series`, `/v1/usage/routing`, `/v1/providers/series`, `/v1/me`: what the dashboard shows besides the rest.

In: requests. Out: JSON; a team sees its own. What is read, and how, is in `series`.
"""

from collections.abc import Callable
from functools import partial

from aiohttp import web

from control import series
from control.auth import Caller
from control.store import Store
from control.web import answer, query
from extproc.snapshot.current import Current

CallerOf = Callable[[web.Request], Caller]


class ChartsApi:
    """The handlers. `caller_of`: who sends a request; raises for nobody."""

    def __init__(self, current: Current, store: Store, caller_of: CallerOf, wall_s: Callable[[], float]) -> None:
        self._current = current
        self._store = store
        self._caller_of = caller_of
        self._wall_s = wall_s

    def routes(self) -> list[web.RouteDef]:
        """Every path that is served here."""
        return [
            web.get("/v1/me", self.me),
            web.get("/v1/usage/series", self.usage),
            web.get("/v1/usage/routing", self.routing),
            web.get("/v1/providers/series", self.providers),
        ]

    async def me(self, request: web.Request) -> web.Response:
        """Whose key this is."""
        caller = self._caller_of(request)
        query(request, ())
        return answer({"role": "admin" if caller.is_admin else "team", "team_id": caller.team_id})

    async def usage(self, request: web.Request) -> web.Response:
        """What was used, over time."""
        window, team_id = self._asked(request)
        read = partial(series.usage, window=window, team_id=team_id, now_s=self._wall_s())
        return answer(await self._store.read(read))

    async def routing(self, request: web.Request) -> web.Response:
        """How requests were routed, and what that saved."""
        window, team_id = self._asked(request)
        catalog = self._current.snapshot.catalog
        read = partial(series.routing, window=window, team_id=team_id, now_s=self._wall_s(), catalog=catalog)
        return answer(await self._store.read(read))

    async def providers(self, request: web.Request) -> web.Response:
        """How providers answered, over time; for any valid key."""
        self._caller_of(request)
        window = series.window_of(query(request, ("window",)))
        return answer(await self._store.read(partial(series.providers, window=window, now_s=self._wall_s())))

    def _asked(self, request: web.Request) -> tuple[series.Window, str | None]:
        """The window, and the team whose figures are meant: None is all teams, for an administrator."""
        caller = self._caller_of(request)
        given = query(request, ("window", "team_id"))
        team_id = given.get("team_id", caller.team_id)
        if team_id is not None:
            caller.require_team(team_id)
        return series.window_of(given), team_id
