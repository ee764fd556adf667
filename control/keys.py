"""`/v1/teams/{id}/keys`: a team's keys, listed, made, rotated, revoked by administrators while the gateway runs.

In: requests. Out: JSON; a key itself once, in the answer to whoever made it. A change is in force on every worker of
every replica within a second. A team's own keys may do none of this: who holds one key must not be able to make more.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from control import keyring
from control.auth import Caller
from control.changes import Changes
from control.keyring import Key, KeyMade
from control.web import answer, body_of, duration_s, query
from extproc.errors import Conflict, InvalidRequest
from extproc.settings import Team
from extproc.snapshot.current import Current
from extproc.snapshot.overrides import MadeKey, TeamOverride, holds

CallerOf = Callable[[web.Request], Caller]

_DAY_S = 86_400.0
_LONGEST_S = 3650 * _DAY_S
_LONGEST_NAME_CHARS = 100


class NewKey(msgspec.Struct, frozen=True):
    """What a key is to be. `expires_in`: a duration such as 90d; without it the key does not expire."""

    name: str = ""
    expires_in: str | int | float | None = None


class Rotation(msgspec.Struct, frozen=True):
    """How a key is to be replaced. `overlap`: how long the old one holds beside the new one. Without `expires_in` the
    new one holds for as long as the old one was made for."""

    overlap: str | int | float = "24h"
    expires_in: str | int | float | msgspec.UnsetType | None = msgspec.UNSET


class KeysApi:
    """The handlers. `caller_of`: who sends a request; raises for nobody."""

    def __init__(self, current: Current, changes: Changes, caller_of: CallerOf, wall_s: Callable[[], float]) -> None:
        self._current = current
        self._changes = changes
        self._caller_of = caller_of
        self._wall_s = wall_s

    def routes(self) -> list[web.RouteDef]:
        """Every path that is served here."""
        return [
            web.get("/v1/teams/{id}/keys", self.list),
            web.post("/v1/teams/{id}/keys", self.create),
            web.delete("/v1/teams/{id}/keys/{key_id}", self.revoke),
            web.post("/v1/teams/{id}/keys/{key_id}/rotate", self.rotate),
        ]

    async def list(self, request: web.Request) -> web.Response:
        """All of a team's keys."""
        self._admin(request)
        query(request, ())
        team, override = self._team(request.match_info["id"])
        return answer({"keys": keyring.listed(team, override, self._wall_s())})

    async def create(self, request: web.Request) -> web.Response:
        """One more."""
        who, now_s, team_id = self._admin(request), self._wall_s(), request.match_info["id"]
        wish = await body_of(request, NewKey)
        if len(wish.name) > _LONGEST_NAME_CHARS or not wish.name.isprintable():
            raise InvalidRequest(f"name must be at most {_LONGEST_NAME_CHARS} printable characters.", param="name")
        plain, key = _new(wish.name, wish.expires_in, who, now_s)

        def step(team: Team, override: TeamOverride) -> tuple[TeamOverride, dict[str, Any]]:
            after = keyring.made(team, override, key, now_s)
            return after, {"key": keyring.shown(after, key.digest, now_s)}

        await self._changes.change(team_id, "key.create", step, who, now_s)
        return _only_once(plain, keyring.shown(TeamOverride(keys_made=(key,)), key.digest, now_s))

    async def rotate(self, request: web.Request) -> web.Response:
        """A new key of the same name in the place of one, which holds for a while beside it."""
        who, now_s, key_id = self._admin(request), self._wall_s(), request.match_info["key_id"]
        wish = await body_of(request, Rotation)
        overlap_s = duration_s(wish.overlap, "overlap", 0, _LONGEST_S)
        old_team, old = self._team(request.match_info["id"])
        digest = keyring.found(old_team, old, key_id)
        expires_in = keyring.lifetime_s(old, digest) if wish.expires_in is msgspec.UNSET else wish.expires_in
        plain, key = _new(keyring.shown(old, digest, now_s).name, expires_in, who, now_s)
        replaced: list[Key] = []

        def step(team: Team, override: TeamOverride) -> tuple[TeamOverride, dict[str, Any]]:
            digest = keyring.found(team, override, key_id)
            if not holds(override, digest, now_s):
                raise Conflict(f"The key {key_id} has ended; create a new one.", param="key_id")
            ending = keyring.revoked(override, digest, now_s + overlap_s, now_s)
            after = keyring.made(team, ending, key, now_s)
            replaced[:] = [keyring.shown(after, digest, now_s)]
            return after, {"key": keyring.shown(after, key.digest, now_s), "replaces": replaced[0]}

        await self._changes.change(old_team.id, "key.rotate", step, who, now_s)
        return _only_once(plain, keyring.shown(TeamOverride(keys_made=(key,)), key.digest, now_s), replaced[0])

    async def revoke(self, request: web.Request) -> web.Response:
        """Refuse a key from now on, wherever it came from; one that has ended stays so."""
        who, now_s = self._admin(request), self._wall_s()
        query(request, ())
        team_id, key_id = request.match_info["id"], request.match_info["key_id"]
        after_all: list[Key] = []

        def step(team: Team, override: TeamOverride) -> tuple[TeamOverride, dict[str, Any]]:
            digest = keyring.found(team, override, key_id)
            after = keyring.revoked(override, digest, now_s, now_s)
            after_all[:] = [keyring.shown(after, digest, now_s)]
            return after, {"key": after_all[0]}

        await self._changes.change(team_id, "key.revoke", step, who, now_s)
        return answer(after_all[0])

    def _admin(self, request: web.Request) -> str:
        caller = self._caller_of(request)
        caller.require_admin()
        return caller.key

    def _team(self, team_id: str) -> tuple[Team, TeamOverride]:
        """The team with the keys of gateway.yaml, and what was changed. Raises NotFound."""
        return self._changes.base(team_id, self._current.snapshot.overrides)


def _new(name: str, expires_in: str | float | None, who: str, now_s: float) -> tuple[str, MadeKey]:
    """A key, and what is kept of it. Raises InvalidRequest."""
    expires_at = None if expires_in is None else now_s + duration_s(expires_in, "expires_in", 1, _LONGEST_S)
    plain = keyring.new_key()
    return plain, MadeKey(keyring.digest_of(plain), plain[-4:], now_s, who, name, expires_at)


def _only_once(plain: str, key: Key, replaces: Key | None = None) -> web.Response:
    response = answer(KeyMade(**msgspec.structs.asdict(key), key=plain, replaces=replaces), 201)
    response.headers["Cache-Control"] = "no-store"
    return response
