"""`/v1/cache`: what is kept, deleted by scope; statistics of it. What `/metrics` shows of it is in `cache_metrics`.

In: requests of administrators (a team may see its own statistics). Out: JSON, and metric families. Workers keep no
copies of entries, so what is deleted here is gone for every replica with the answer to this call; answers that were
asked for before and are still on their way are not kept either.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import msgspec
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from control import cache_metrics
from control.auth import Caller
from control.cache_metrics import NANO, Semantic, Totals
from control.families import Family
from control.web import answer, json_object, query
from extproc.cache.calibrate import Tally, estimate
from extproc.cache.counts import read
from extproc.cache.key import SHARED, partition_of
from extproc.cache.ports import StoreUnavailable
from extproc.cache.redis import About, RedisStore
from extproc.errors import InvalidRequest, StateUnavailable
from extproc.settings import Duration
from extproc.snapshot.current import Current

CallerOf = Callable[[web.Request], Caller]

_NEEDS = {"all": None, "team": "team_id", "model": "model", "key": "cache_key"}
_DURATION = TypeAdapter(Duration)


class Deletion(msgspec.Struct, frozen=True):
    """What is to be deleted. `older_than`: only what was kept longer ago, in seconds."""

    scope: Literal["all", "team", "model", "key"]
    team_id: str | None = None
    model: str | None = None
    cache_key: str | None = None
    older_than: float | None = None

    def covers(self, entry: About, now_ms: int) -> bool:
        """Whether `entry` is meant."""
        return (
            (self.team_id is None or entry.team_id == self.team_id)
            and (self.model is None or entry.model == self.model)
            and (self.cache_key is None or entry.digest == self.cache_key)
            and (self.older_than is None or now_ms - entry.stored_ms > self.older_than * 1000)
        )

    @property
    def marker(self) -> str | None:
        """How the store is told not to keep what is on its way; None: with an age only what is kept is meant."""
        if self.older_than is not None:
            return None
        return f"key:{self.cache_key}" if self.cache_key else f"model:{self.model}" if self.model else "*"


class TeamCacheStats(msgspec.Struct, frozen=True, kw_only=True):
    team_id: str
    hits: int
    semantic_hits: int
    misses: int
    bypasses: int
    hit_rate: float | None
    semantic: Semantic
    estimated_wrong_hit_rate: float | None
    saved_tokens: int
    saved_usd: float
    entries: int
    bytes: int


class CacheApi:
    """The handlers. `caller_of`: who sends a request; raises for nobody."""

    def __init__(
        self, current: Current, store: RedisStore, replica: str, caller_of: CallerOf, wall_s: Callable[[], float]
    ) -> None:
        self._current = current
        self._store = store
        self._replica = replica
        self._caller_of = caller_of
        self._wall_s = wall_s

    def routes(self) -> list[web.RouteDef]:
        """Every path that is served here."""
        return [web.delete("/v1/cache", self.delete), web.get("/v1/cache/stats", self.stats)]

    async def delete(self, request: web.Request) -> web.Response:
        """Delete entries; tells how many."""
        self._caller_of(request).require_admin()
        deletion = deletion_of(await json_object(request))
        try:
            return answer({"entries_deleted": await self._delete(deletion)})
        except StoreUnavailable:
            raise StateUnavailable("The cache cannot be reached at the moment; what it keeps is as it was.") from None

    async def stats(self, request: web.Request) -> web.Response:
        """Per team, over all replicas: for an administrator all teams, for a team its own."""
        caller = self._caller_of(request)
        query(request, ())
        teams = [
            team.id for team in self._current.snapshot.settings.teams if caller.is_admin or team.id == caller.team_id
        ]
        try:
            totals = await self._totals(await self._store.replicas())
            return answer({"teams": [await self._stats(team_id, totals) for team_id in teams]})
        except StoreUnavailable:
            raise StateUnavailable("The cache cannot be reached at the moment.") from None

    async def families(self) -> list[Family]:
        """Metrics of this replica; without samples while the store is away."""
        try:
            totals = await self._totals([self._replica])
            names = sorted(await self._store.partitions())
            sizes = {name: await self._store.size(name, self._now_ms()) for name in names}
            semantic = {name: self._semantic(await self._store.tally(name)) for name in names}
        except StoreUnavailable:
            totals, sizes, semantic = {}, {}, {}
        limit = self._current.snapshot.settings.cache.semantic.max_wrong_hit_rate
        return cache_metrics.families(totals, sizes, semantic, limit)

    async def _delete(self, deletion: Deletion) -> int:
        now_ms, count = self._now_ms(), 0
        for partition in await self._partitions(deletion):
            if deletion.marker is not None:
                await self._store.purge(partition, deletion.marker, now_ms)
            meant = [entry.digest async for entry in self._meant(partition, deletion, now_ms)]
            count += await self._store.forget(partition, meant)
        return count

    async def _meant(self, partition: str, deletion: Deletion, now_ms: int) -> AsyncIterator[About]:
        async for entry in self._store.about(partition):
            if deletion.covers(entry, now_ms):
                yield entry

    async def _partitions(self, deletion: Deletion) -> list[str]:
        """Where entries that are meant may be, or may come to be."""
        if deletion.team_id is not None:
            return [partition_of(deletion.team_id, shared=False), SHARED]
        configured = {partition_of(team.id, shared=False) for team in self._current.snapshot.settings.teams}
        return sorted(configured | {SHARED} | await self._store.partitions())

    async def _totals(self, replicas: Any) -> Totals:
        totals: Counter[tuple[str, str, str]] = Counter()
        for replica in sorted(replicas):
            for field, number in (await self._store.counts(replica)).items():
                totals[read(field)] += number
        return totals

    async def _stats(self, team_id: str, totals: Totals) -> TeamCacheStats:
        def total(event: str) -> int:
            return sum(number for (team, name, _), number in totals.items() if (team, name) == (team_id, event))

        hits, semantic_hits, misses, checked = (total(name) for name in ("hits", "semantic_hits", "misses", "checked"))
        partition = partition_of(team_id, shared=False)
        entries, size_bytes = await self._store.size(partition, self._now_ms())
        looked_up = hits + semantic_hits + misses
        return TeamCacheStats(
            team_id=team_id,
            hits=hits,
            semantic_hits=semantic_hits,
            misses=misses,
            bypasses=total("bypasses"),
            hit_rate=(hits + semantic_hits) / looked_up if looked_up else None,
            semantic=self._semantic(await self._store.tally(partition)),
            estimated_wrong_hit_rate=total("wrong") / checked if checked else None,
            saved_tokens=total("saved_tokens"),
            saved_usd=total("saved_nano_usd") / NANO,
            entries=entries,
            bytes=size_bytes,
        )

    def _semantic(self, tally: Tally) -> Semantic:
        """How near a question must be, and what checks of the partition say of hits that are."""
        found = estimate(tally, self._current.snapshot.settings.cache.semantic.max_wrong_hit_rate)
        return Semantic(threshold=found.threshold, checked=found.checked, wrong=found.wrong, upper=found.upper)

    def _now_ms(self) -> int:
        return round(self._wall_s() * 1000)


def deletion_of(body: dict[str, Any]) -> Deletion:
    """The body of a DELETE. Raises InvalidRequest, naming the field."""
    given = {name: value for name, value in body.items() if value is not None}
    for name in given:
        if name not in Deletion.__struct_fields__:
            known = ", ".join(Deletion.__struct_fields__)
            raise InvalidRequest(f"Unknown field {name!r}; known are {known}.", param=name)
    scope = given.get("scope")
    if not isinstance(scope, str) or scope not in _NEEDS:
        raise InvalidRequest(f"scope must be one of {', '.join(_NEEDS)}.", param="scope")
    needed = _NEEDS[scope]
    if needed is not None and needed not in given:
        raise InvalidRequest(f"{needed} is missing; scope {scope} needs it.", param=needed)
    for name in ("team_id", "model", "cache_key"):
        if name not in given:
            continue
        if name != needed and (name != "team_id" or scope == "all"):
            raise InvalidRequest(f"{name} does not go with scope {scope}.", param=name)
        if not isinstance(given[name], str) or not given[name]:
            raise InvalidRequest(f"{name} must be a string.", param=name)
    if "older_than" in given:
        given["older_than"] = _age_s(given["older_than"])
    return Deletion(**given)


def _age_s(value: object) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return _DURATION.validate_python(value)
    except (ValidationError, TypeError):
        message = "older_than must be a duration such as 2s, 24h or a number of seconds."
        raise InvalidRequest(message, param="older_than") from None
