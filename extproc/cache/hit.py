"""What a look-up comes to. Pure.

In: made by `answers`. Out: to the walk: a `Hit` is answered at once, a `Miss` goes on its way.
"""

import msgspec

from extproc.cache.entry import Entry
from extproc.cache.key import Key
from extproc.cache.policy import Bypass, Terms
from extproc.cache.ticket import Ticket
from extproc.records import CacheStatus


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A request, as the cache needs to know it."""

    key: Key
    terms: Terms
    request_id: str
    team_id: str
    models: frozenset[str]  # that the team may use: an answer of another one is none for it
    now_ms: int  # since the epoch
    traceparent: str | None = None  # the client's


class Hit(msgspec.Struct, frozen=True):
    """An answer. `age_s`: how long ago it was kept, in seconds."""

    entry: Entry
    status: CacheStatus
    age_s: int
    check: bool = False  # ask the provider too, to compare


class Miss(msgspec.Struct, frozen=True):
    """No answer. `ticket` None: what comes of the request is not kept."""

    status: CacheStatus = "bypass"
    reason: Bypass = "off"  # of a bypass
    ticket: Ticket | None = None


OFF = Miss()
