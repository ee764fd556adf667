"""What happened in the cache, by team: for the statistics and the metrics. Pure.

In: `add`, from the walk and the recorder. Out: what has gathered, in batches of fields of a hash in the shared state,
which `redis` adds them to about twice a second: each again until it is known to be there, under the name by which the
state knows it. A process that is killed loses its last one.
"""

from collections import Counter
from typing import Final, Literal, NamedTuple
from uuid import uuid4

Event = Literal[
    "hits",
    "semantic_hits",
    "misses",
    "not_similar",  # misses for which a similar request was looked for; detail: the step that found none
    "bypasses",  # detail: why
    "coalesced",  # hits that waited for the same request in flight
    "stores",
    "refused",  # answers that were not kept; detail: why
    "evictions",
    "errors",  # the store did not answer, or not in time; detail: look_up or store
    "saved_tokens",
    "saved_nano_usd",
    "checked",  # semantic hits that were compared with the provider's own answer
    "wrong",  # of these
]
SEPARATOR: Final = "|"


class Batch(NamedTuple):
    """What is added at once, and once."""

    name: str
    numbers: dict[str, int]


class Counts:
    """Gathered in one process."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._batch: Batch | None = None

    def add(self, team_id: str, event: Event, number: int = 1, detail: str = "") -> None:
        """`number` more of `event`."""
        self._counts[SEPARATOR.join((team_id, event, detail))] += number

    def take(self) -> dict[str, int]:
        """All that has gathered, and begin anew."""
        taken, self._counts = dict(self._counts), Counter()
        return taken

    def batch(self) -> Batch | None:
        """What is to be handed on: the same until it is `done`. None: nothing."""
        if self._batch is None and self._counts:
            self._batch = Batch(uuid4().hex, self.take())
        return self._batch

    def done(self) -> None:
        """The batch has been handed on."""
        self._batch = None


def read(field: str) -> tuple[str, str, str]:
    """Team, event and detail of a field."""
    team_id, event, detail = field.split(SEPARATOR, 2)
    return team_id, event, detail
