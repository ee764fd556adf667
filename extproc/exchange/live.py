"""Requests whose answer has not begun: where a fallback attempt, an exchange of its own, finds its request.

In: plans, from the reply to a request until its answer's headers or the end of its exchange, whichever is first. Envoy
ends the latter when the client leaves and after `timeouts.request` at the latest. Of an answer that passes by Envoy
alone (`passing`) nobody tells us when it begins: such a plan is kept until its next attempt must have begun; where that
would be more than PASSING_BYTES of them, an answer does not pass, for none may be forgotten before.
Kept are the client's own bytes (a large body is read again for the next attempt): of bodies up to `chat.LARGE_BYTES` as
many as there are exchanges, of larger ones KEPT_BYTES in all. Beyond that the oldest lose theirs: they are still
answered, but not tried elsewhere. Those that are still coming in have a `room` of their own.
"""

import heapq
import logging
import secrets

from extproc.errors import NoProviderAvailable
from extproc.exchange.room import Room
from extproc.plan import Plan
from extproc.process.logs import Trouble

log = logging.getLogger(__name__)

KEPT_BYTES = 256 * 1024 * 1024
PASSING_BYTES = 128 * 1024 * 1024
PLAN_BYTES = 5_000  # of each, beside the client's bytes


class Live:
    """The exchanges of this worker whose answer has not begun, by request id."""

    def __init__(self) -> None:
        self.room = Room()
        self.token = secrets.token_hex(16)  # a secret of this worker and Envoy: see `wire.P_SIGN`
        self._plans: dict[str, Plan] = {}
        self._large: dict[str, int] = {}  # bytes of large bodies, the oldest first
        self._kept_bytes = 0
        self._passing: dict[str, tuple[int, int]] = {}  # until when, and bytes
        self._passing_bytes = 0
        self._next: list[tuple[int, str]] = []  # when to look at which of them, the first to go first
        self._crowded = Trouble(log, "too many answers pass; others are looked at", "all answers pass again")
        self.compress: set[str] = set()  # providers that compress streams though asked not to: only we can read those

    def add(self, plan: Plan) -> None:
        """Fallback attempts can find `plan` from now on."""
        request_id = plan.decision.request_id
        self._plans[request_id] = plan
        if plan.chat.large is None:
            return
        self._large[request_id] = len(plan.chat.text)
        self._kept_bytes += len(plan.chat.text)
        while self._kept_bytes > KEPT_BYTES:
            oldest = self._plans[next(iter(self._large))]
            self.remove(oldest)
            if oldest is not plan:
                oldest.keep_nothing()

    def pass_on(self, plan: Plan, now_ns: int) -> bool:
        """Nobody will `remove` it: forget it when its next attempt, to be told here again, must have begun.

        Returns whether there is room for it.
        """
        while self._next and self._next[0][0] <= now_ns:
            _, request_id = heapq.heappop(self._next)
            if self._passing.get(request_id, (0, 0))[0] <= now_ns:  # else it was told again
                self._forget(request_id)
        request_id = plan.decision.request_id
        known = self._passing.get(request_id)
        size = known[1] if known else PLAN_BYTES + len(plan.chat.text)
        if not known:
            if self._passing_bytes + size > PASSING_BYTES:
                self._crowded.seen(f"{PASSING_BYTES} bytes of requests are kept for them", requests=len(self._passing))
                return False
            self._crowded.over()
            self._passing_bytes += size
        until_ns = now_ns + plan.patience_ns
        self._passing[request_id] = until_ns, size
        heapq.heappush(self._next, (until_ns, request_id))
        return True

    def may_be_asked(self, now_ns: int) -> bool:
        """Whether the answer of some request that passes has had less than its time."""
        return any(until_ns > now_ns for until_ns, _ in self._passing.values())

    def remove(self, plan: Plan) -> None:
        """Forget `plan`. Harmless twice."""
        self._forget(plan.decision.request_id)

    def _forget(self, request_id: str) -> None:
        self._plans.pop(request_id, None)
        self._kept_bytes -= self._large.pop(request_id, 0)
        self._passing_bytes -= self._passing.pop(request_id, (0, 0))[1]

    def find(self, request_id: str) -> Plan:
        """The plan of a request. Raises NoProviderAvailable when it is gone."""
        plan = self._plans.get(request_id)
        if plan is None:
            raise NoProviderAvailable("The request is not known here.")
        return plan

    def __len__(self) -> int:
        return len(self._plans)
