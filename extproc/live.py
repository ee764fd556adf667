"""Requests whose answer has not begun: where a fallback attempt, an exchange of its own, finds its request."""

from extproc.errors import NoProviderAvailable
from extproc.plan import Plan


class Live:
    """The exchanges of this worker whose answer has not begun, by request id."""

    def __init__(self) -> None:
        self._plans: dict[str, Plan] = {}

    def add(self, plan: Plan) -> None:
        """Fallback attempts can find `plan` from now on."""
        self._plans[plan.decision.request_id] = plan

    def remove(self, plan: Plan) -> None:
        """Forget `plan`. Harmless twice."""
        self._plans.pop(plan.decision.request_id, None)

    def find(self, request_id: str) -> Plan:
        """The plan of a request. Raises NoProviderAvailable when it is gone."""
        plan = self._plans.get(request_id)
        if plan is None:
            raise NoProviderAvailable("The request is not known here.")
        return plan

    def __len__(self) -> int:
        return len(self._plans)
