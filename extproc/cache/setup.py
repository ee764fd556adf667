"""The cache's parts of one process, put together: store, counts, recorder, and in a worker the walk's step.

In: where the shared state is, and the settings of now. Out: parts, and what runs beside them. Has connections of its
own, so that a slow answer of the cache's keeps nobody from the ledger. Made by the worker and the settler at start.
"""

import hashlib
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from extproc.cache.answers import Answers
from extproc.cache.counts import Counts
from extproc.cache.ports import Similar, StoreUnavailable
from extproc.cache.recorder import Recorder
from extproc.cache.redis import LOOK_UP_S, WRITE_S, RedisStore
from extproc.cache.step import CacheStep
from extproc.paths import Paths
from extproc.pipe import open_state
from extproc.settings import Cache, Settings


def replica_of(paths: Paths) -> str:
    """Names this gateway among those that share a state, over restarts."""
    return hashlib.sha256(f"{socket.gethostname()}:{paths.data_dir}".encode()).hexdigest()[:12]


class CacheParts:
    """Of one process. `settings`: those of now."""

    def __init__(self, configured: Settings, paths: Paths, settings: Callable[[], Cache]) -> None:
        url = paths.state_url(configured.state.url)
        self._client, self._quick = open_state(url, timeout_s=WRITE_S), open_state(url, timeout_s=LOOK_UP_S)
        self._replica = replica_of(paths)
        self._settings = settings
        self.store = RedisStore(self._client, self._quick)
        self.counts = Counts()
        self.recorder = Recorder(settings, self.store, self.counts)

    def step(self, similar: Similar | None = None) -> CacheStep:
        """The walk's."""
        return CacheStep(Answers(self._settings, self.store, self.counts, similar), self.recorder)

    def beside(self) -> list[Coroutine[Any, Any, None]]:
        """What runs beside everything else, until cancelled."""
        return [self.recorder.run(), self.store.flush(self._replica, self.counts)]

    async def close(self) -> None:
        """Keep what waits to be kept, and leave."""
        await self.recorder.drain()
        with suppress(StoreUnavailable):
            await self.store.add_counts(self._replica, self.counts.take())
        await self._client.aclose()
        await self._quick.aclose()
