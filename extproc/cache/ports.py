"""What the cache's own steps wait for. The store implements Entries; the semantic step implements Similar."""

from collections.abc import Sequence
from enum import Enum
from typing import Literal, Protocol

import msgspec

from extproc.budget.ledger import Rider
from extproc.cache.entry import Entry
from extproc.cache.key import Key
from extproc.cache.ticket import Ticket


class Flight(Enum):
    """Nothing is kept for a key: what to do."""

    LEAD = "lead"  # go and get the answer; others wait for it
    FOLLOW = "follow"  # another request is on its way for it


class StoreUnavailable(Exception):
    """The store could not be reached, or did not answer in time."""


class Stowed(msgspec.Struct, frozen=True):
    """What came of an entry that was handed to the store. `purged`: its like was deleted after it was asked for."""

    outcome: Literal["kept", "oversized", "purged"]
    evicted: int = 0  # entries that had to go for it


class Entries(Protocol):
    """The store, as the walk and the recorder need it. All raise StoreUnavailable."""

    async def look_up(
        self, key: Key, now_ms: int, flight: str, flight_ms: int, rider: Rider | None = None
    ) -> Entry | Flight:
        """The entry of exactly `key`; without one, whether to lead. `flight` "": never lead.

        `rider`: a hold to take in the same round trip, unless there is an entry or another to follow.
        """

    async def get(self, key: Key, digest: str, now_ms: int) -> Entry | None:
        """The entry that `digest` names, if it is of `key`'s own partition and context."""

    async def store(self, entry: Entry, ticket: Ticket, ttl_ms: int, most_bytes: int) -> Stowed:
        """Keep `entry`, at most `most_bytes` in its partition; ends the ticket's flight."""

    async def land(self, key: Key, flight: str) -> None:
        """End a flight that brought nothing to keep: the next who waits takes over."""


class VectorStore(Protocol):
    """The store, as who reads kept texts needs it. Both raise StoreUnavailable."""

    async def vectors(self, partition: str, digests: Sequence[str]) -> list[bytes | None]:
        """See `redis`."""

    async def add_vectors(self, partition: str, digest: str, vectors: bytes) -> None:
        """See `redis`."""


class Similar(Protocol):
    """The semantic step. Must not raise, and bounds its own time."""

    async def find(self, key: Key, team_id: str, now_ms: int) -> str | None:
        """The digest of a kept entry of `key`'s partition and context whose answer also answers `key.text`."""

    def to_check(self, key: Key) -> bool:
        """Whether the provider is to be asked too, behind the back of the client that was given what was found."""

    def gone(self, digest: str) -> None:
        """What was found is not kept any more."""
