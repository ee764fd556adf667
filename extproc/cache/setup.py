"""The cache's parts of one process, put together: store, counts, recorder, and in a worker the walk's step.

In: where the shared state is, and the settings of now. Out: parts, and what runs beside them. Has connections of its
own, so that a slow answer of the cache's keeps nobody from the ledger. Made by the worker and the settler at start.
"""

# ruff: noqa: PLC0415 - numpy is a tenth of a start; only the semantic step needs it

import hashlib
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from extproc.cache.answers import Answers
from extproc.cache.checks import Follower
from extproc.cache.counts import Counts
from extproc.cache.key import partition_of
from extproc.cache.ports import StoreUnavailable
from extproc.cache.recorder import Recorder
from extproc.cache.redis import WRITE_S, RedisStore
from extproc.cache.sampler import Sampler
from extproc.cache.semantic import Semantic
from extproc.cache.step import CacheStep
from extproc.paths import Paths
from extproc.settings import Cache, Settings, Team
from extproc.state.pipe import open_state

if TYPE_CHECKING:
    from extproc.cache.cascade import Cascade, Models


def replica_of(paths: Paths) -> str:
    """Names this gateway among those that share a state, over restarts."""
    return hashlib.sha256(f"{socket.gethostname()}:{paths.data_dir}".encode()).hexdigest()[:12]


def models() -> "Models":
    """What the semantic step reads texts with: 0.3 s, 65 MB."""
    from extproc.cache.cascade import Models
    from extproc.cache.confirm import Confirmer
    from extproc.embedding.installed import fingerprint
    from extproc.embedding.static import StaticEmbedder

    return Models(StaticEmbedder.load(), Confirmer.load(), fingerprint())


def _cascade() -> "Cascade":
    from extproc.cache.cascade import Cascade
    from extproc.cache.index import Index

    return Cascade(Index())


class CacheParts:
    """Of one process. `settings`: those of now."""

    def __init__(self, configured: Settings, paths: Paths, settings: Callable[[], Cache]) -> None:
        url = paths.state_url(configured.state.url)
        self._client = open_state(url, timeout_s=WRITE_S)
        self._quick = open_state(url, timeout_s=configured.state.timeout)
        self._replica = replica_of(paths)
        self._settings = settings
        self.store = RedisStore(self._client, self._quick)
        self.counts = Counts()
        self.recorder = Recorder(settings, self.store, self.counts)
        self._semantic = Semantic(lambda: settings().semantic, _cascade, self.counts)
        self._sampler = Sampler(paths.inside_socket, lambda: settings().semantic)

    def step(self) -> CacheStep:
        """The walk's."""
        answers = Answers(self._settings, self.store, self.counts, self._semantic)
        return CacheStep(answers, self.recorder, self._sampler.ask)

    def beside(self) -> list[Coroutine[Any, Any, None]]:
        """What runs beside everything else, until cancelled."""
        return [self.recorder.run(), self.store.flush(self._replica, self.counts)]

    def of_worker(self) -> list[Coroutine[Any, Any, None]]:
        """What runs beside a worker's walk: the semantic step's index, its checks, and the requests made for them."""
        return [Follower(self._semantic, self.store, models).run(), self._sampler.run()]

    async def left(self, team: Team | None, request_id: str) -> None:
        """A request of `team` has ended before Envoy knew of it, so that its ticket is nobody's. Never fails."""
        if team is not None and self._settings().exact:
            with suppress(StoreUnavailable):
                await self.store.left(partition_of(team.id, shared=team.cache.shared), request_id)

    async def close(self) -> None:
        """Keep what waits to be kept, and leave."""
        await self.recorder.drain()
        await self.store.hand_on(self._replica, self.counts)
        await self._client.aclose()
        await self._quick.aclose()
