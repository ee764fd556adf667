"""Beside the walk: learns of new entries, compares answers, and shares what came of it.

In: the store's news. Out: an index that is up to date (after a restart too, from the news and the vectors that are
kept), and tallies that all workers share. A store that is away is tried again; nothing waits for it.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from extproc.cache.agree import agree, text_of
from extproc.cache.calibrate import Tally
from extproc.cache.entry import Entry, Stored
from extproc.cache.key import Key
from extproc.cache.ports import StoreUnavailable, VectorStore
from extproc.cache.semantic import Pending, Semantic
from extproc.process.beat import beat

if TYPE_CHECKING:
    from extproc.cache.cascade import Models
    from extproc.cache.vectors import Reader

log = logging.getLogger(__name__)

NEWS_S: Final = 0.25
TALLIES_S: Final = 2.0
EXPIRE_S: Final = 60.0
RELOAD_S: Final = 30.0
_AT_ONCE: Final = 50  # news between two turns of the loop: about 6 ms


class Store(VectorStore, Protocol):
    """What of the store is needed here. All raise StoreUnavailable."""

    async def stored_after(self, place: str, most: int) -> list[tuple[str, Stored]]:
        """See `redis`."""

    async def get(self, key: Key, digest: str, now_ms: int) -> Entry | None:
        """See `ports`."""

    async def add_check(self, partition: str, bucket: int, *, wrong: bool) -> None:
        """One more check of a partition."""

    async def tally(self, partition: str) -> Tally:
        """Checks of a partition, by all workers of all replicas."""


class Follower:
    """Bound to a worker's semantic step and store. `load`: the models, which are read when the step is first on."""

    def __init__(self, semantic: Semantic, store: Store, load: Callable[[], "Models"]) -> None:
        self._semantic = semantic
        self._store = store
        self._load = load
        self._place = "0"
        self._comparing: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until cancelled."""
        while not self._semantic.settings().enabled:  # switched on by a reload, if ever
            await beat(TALLIES_S)
        from extproc.cache.vectors import Reader  # noqa: PLC0415 - numpy, which a worker without the step is spared

        models = self._semantic.cascade.models = await self._loaded()
        reader = Reader(self._store, models)
        tallies_at = expire_at = time.monotonic()
        while True:
            try:
                while await self.catch_up(reader):  # noqa: ASYNC110 - lets requests through between two batches
                    await asyncio.sleep(0)
                await reader.read()
                if time.monotonic() >= tallies_at:
                    tallies_at = time.monotonic() + TALLIES_S
                    await self.refresh()
            except StoreUnavailable as error:
                log.debug("news of the cache not read", extra={"reason": str(error)})
            if time.monotonic() >= expire_at:
                expire_at = time.monotonic() + EXPIRE_S
                self._semantic.cascade.index.expire(round(time.time() * 1000))
            await beat(NEWS_S)

    async def _loaded(self) -> "Models":
        """The models, however long it takes to have them; without them every look-up is a miss."""
        while True:
            try:
                return await asyncio.to_thread(self._load)
            except Exception:  # a file that cannot be read, a library that does not run on this processor
                log.exception("models of the semantic cache cannot be loaded; it stays off, tried again")
                await asyncio.sleep(RELOAD_S)

    async def catch_up(self, reader: "Reader") -> bool:
        """Read some news; whether there may be more."""
        news = await self._store.stored_after(self._place, _AT_ONCE)
        known = await reader.known([stored.key for _, stored in news])
        for place, stored in news:
            self._place = place
            if stored.key.text is not None and stored.key.digest not in known:
                continue  # gone meanwhile, or too long to be looked for
            vectors = known.get(stored.key.digest)
            pending = self._semantic.learn(stored, vectors and vectors.static)
            if pending is not None:
                task = asyncio.create_task(self._compare(stored.key, pending))
                self._comparing.add(task)
                task.add_done_callback(self._comparing.discard)
        return len(news) == _AT_ONCE

    async def refresh(self) -> None:
        """Take over what others checked."""
        for partition in list(self._semantic.tallies):
            self._semantic.update(partition, await self._store.tally(partition))

    async def _compare(self, key: Key, pending: Pending) -> None:
        """The provider's own answer against the candidate's."""
        now_ms, models = round(time.time() * 1000), self._semantic.cascade.models
        try:
            own = await self._store.get(key, key.digest, now_ms)
            other = await self._store.get(key, pending.candidate.digest, now_ms)
            texts = [text_of(entry.answer) for entry in (own, other) if entry is not None]
            if models is None or len(texts) != 2 or texts[0] is None or texts[1] is None:
                return
            wrong = not agree(texts[0], texts[1], models.embedder)
            at = self._semantic.checked(key.partition, pending, wrong=wrong)
            await self._store.add_check(key.partition, at, wrong=wrong)
        except StoreUnavailable as error:
            log.debug("check of a semantic hit not made", extra={"reason": str(error)})
