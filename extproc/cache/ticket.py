"""The right to have an answer kept: goes with a cacheable request until its answer ends.

In: given out by `answers` at a miss. Out: used up by the recorder, here or, for a stream that Envoy carries alone, in
the settler, which finds it as JSON in Envoy's dynamic metadata.
"""

import msgspec

from extproc.cache.key import Key


class Ticket(msgspec.Struct, frozen=True, omit_defaults=True):
    """`flight` names the lock that others with the same request wait on; "" if this request holds none."""

    key: Key
    team_id: str
    asked_ms: int  # since the epoch: what was deleted after this is not brought back
    flight: str = ""
    request_id: str = ""
    traceparent: str | None = None  # the client's
