"""Requests whose answer has not begun: where a fallback attempt, an exchange of its own, finds its request.

In: plans, from the reply to a request until its answer's headers or the end of its exchange, whichever is first. Envoy
ends the latter when the client leaves and after `timeouts.request` at the latest. Kept are the client's own bytes (a
large body is read again for the next attempt): of bodies up to `chat.LARGE_BYTES` as many as there are exchanges; of
larger ones KEPT_BYTES in all. Beyond that the oldest lose theirs: they are still answered, but not tried elsewhere.
"""

from extproc.errors import NoProviderAvailable
from extproc.plan import Plan

KEPT_BYTES = 256 * 1024 * 1024


class Live:
    """The exchanges of this worker whose answer has not begun, by request id."""

    def __init__(self) -> None:
        self._plans: dict[str, Plan] = {}
        self._large: dict[str, int] = {}  # bytes of large bodies, the oldest first
        self._kept_bytes = 0

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

    def remove(self, plan: Plan) -> None:
        """Forget `plan`. Harmless twice."""
        self._plans.pop(plan.decision.request_id, None)
        self._kept_bytes -= self._large.pop(plan.decision.request_id, 0)

    def find(self, request_id: str) -> Plan:
        """The plan of a request. Raises NoProviderAvailable when it is gone."""
        plan = self._plans.get(request_id)
        if plan is None:
            raise NoProviderAvailable("The request is not known here.")
        return plan

    def __len__(self) -> int:
        return len(self._plans)
