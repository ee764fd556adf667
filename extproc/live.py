"""Requests whose answer has not begun: where a fallback attempt, an exchange of its own, finds its request.

In: plans, from the reply to a request until its answer's headers or the end of its exchange, whichever is first. Envoy
ends the latter when the client leaves and after `timeouts.request` at the latest. Of an answer that passes by Envoy
alone (`passing`) nobody tells us when it begins: such a plan is kept until all its attempts must have had theirs.
Kept are the client's own bytes (a large body is read again for the next attempt): of bodies up to `chat.LARGE_BYTES` as
many as there are exchanges, and the last MOST_PASSING of those that pass; of larger ones KEPT_BYTES in all. Beyond that
the oldest lose theirs: they are still answered, but not tried elsewhere.
"""

import heapq
import secrets

from extproc.errors import NoProviderAvailable
from extproc.plan import Plan

KEPT_BYTES = 256 * 1024 * 1024
MOST_PASSING = 4096  # about 5 kB each


class Live:
    """The exchanges of this worker whose answer has not begun, by request id."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(16)  # a secret of this worker and Envoy: see `wire.P_SIGN`
        self._plans: dict[str, Plan] = {}
        self._large: dict[str, int] = {}  # bytes of large bodies, the oldest first
        self._kept_bytes = 0
        self._passing: list[tuple[int, str]] = []  # until when, the first to go first

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

    def pass_on(self, plan: Plan, now_ns: int) -> None:
        """Nobody will `remove` it: forget it when its answer must have begun."""
        while self._passing and (self._passing[0][0] <= now_ns or len(self._passing) >= MOST_PASSING):
            self._forget(heapq.heappop(self._passing)[1])
        heapq.heappush(self._passing, (now_ns + plan.patience_ns, plan.decision.request_id))

    def may_be_asked(self, now_ns: int) -> bool:
        """Whether the answer of some request that passes has had less than its time."""
        return any(until_ns > now_ns for until_ns, _ in self._passing)

    def remove(self, plan: Plan) -> None:
        """Forget `plan`. Harmless twice."""
        self._forget(plan.decision.request_id)

    def _forget(self, request_id: str) -> None:
        self._plans.pop(request_id, None)
        self._kept_bytes -= self._large.pop(request_id, 0)

    def find(self, request_id: str) -> Plan:
        """The plan of a request. Raises NoProviderAvailable when it is gone."""
        plan = self._plans.get(request_id)
        if plan is None:
            raise NoProviderAvailable("The request is not known here.")
        return plan

    def __len__(self) -> int:
        return len(self._plans)
