"""The semantic step: a kept answer to a similar question, if it is near enough for its partition.

In: keys of requests that nothing is kept for exactly. Out: the digest of an entry, or None. Implements `ports.Similar`.
A candidate below the threshold, and a settable share of those above it, are remembered: when the provider's own answer
to the request is kept, the two answers are compared (`checks`), and the partition's tally moves its threshold.
"""

import random
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from extproc.cache.calibrate import FLOOR, Estimate, Tally, bucket, estimate
from extproc.cache.counts import Counts
from extproc.cache.entry import Stored
from extproc.cache.key import Key
from extproc.settings import Semantic as Settings

if TYPE_CHECKING:
    from extproc.cache.cascade import Candidate, Cascade
    from extproc.cache.index import Vector

DEADLINE_S = 0.05
_PENDING = 1000


class Pending(msgspec.Struct, frozen=True):
    """A request whose own answer is to be compared with a candidate's. `served`: the client was given the latter."""

    candidate: "Candidate"
    served: bool
    team_id: str


class Semantic:
    """Bound to a worker's cascade, made when it is first needed. `settings`: those of now."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        cascade: "Callable[[], Cascade]",
        counts: Counts,
        draw: Callable[[], float] = random.random,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.settings = settings
        self._make = cascade
        self.tallies: dict[str, Tally] = {}  # of the partitions asked about, as far as known here
        self._estimates: dict[str, Estimate] = {}
        self._counts = counts
        self._draw = draw
        self._deadline_s = deadline_s
        self._pending: OrderedDict[str, Pending] = OrderedDict()  # by the digest of the request

    @cached_property
    def cascade(self) -> "Cascade":
        """What looks for similar texts."""
        return self._make()

    async def find(self, key: Key, team_id: str, now_ms: int) -> str | None:
        """See ports.Similar."""
        if key.text is None:
            return None
        found = await self.cascade.best(key.context, key.text, now_ms, self._deadline_s)
        if isinstance(found, str):
            self._counts.add(team_id, "not_similar", detail=found)
            return None
        if found.cosine >= self.estimate(key.partition).threshold:
            self.cascade.index.use(found.digest)
            if self._draw() < self.settings().sample_share:
                self._remember(key, Pending(found, served=True, team_id=team_id))
            return found.digest
        self._counts.add(team_id, "not_similar", detail="below")
        if found.cosine >= FLOOR:
            self._remember(key, Pending(found, served=False, team_id=team_id))
        return None

    def to_check(self, key: Key) -> bool:
        """Whether the provider is to be asked too, though the answer of a similar request was given."""
        pending = self._pending.get(key.digest)
        return pending is not None and pending.served

    def gone(self, digest: str) -> None:
        """The store does not have it any more."""
        self.cascade.index.forget(digest)

    def learn(self, news: Stored, static: "Vector | None" = None) -> Pending | None:
        """An entry was kept: it can be found from now on. Returns what it is to be compared with, if anything.
        `static`: its text's static vector, where that is known."""
        key = news.key
        if key.text is not None:
            self.cascade.learn(key.context, key.digest, key.text, news.until_ms, static)
        return self._pending.pop(key.digest, None)

    def estimate(self, partition: str) -> Estimate:
        """The threshold of a partition, and its share of wrong hits."""
        known = self._estimates.get(partition)
        if known is None:
            tally = self.tallies.setdefault(partition, Tally())
            known = self._estimates[partition] = estimate(tally, self.settings().max_wrong_hit_rate)
        return known

    def update(self, partition: str, tally: Tally) -> None:
        """What all workers together know of a partition."""
        self.tallies[partition] = tally
        self._estimates.pop(partition, None)

    def checked(self, partition: str, pending: Pending, *, wrong: bool) -> int:
        """A comparison was made; returns its bucket."""
        tally = self.tallies.setdefault(partition, Tally())
        tally.add(pending.candidate.cosine, wrong=wrong)
        self.update(partition, tally)
        if pending.served:
            self._counts.add(pending.team_id, "checked")
            self._counts.add(pending.team_id, "wrong", int(wrong))
        return bucket(pending.candidate.cosine)

    def _remember(self, key: Key, pending: Pending) -> None:
        self._pending[key.digest] = pending
        if len(self._pending) > _PENDING:
            self._pending.popitem(last=False)
