"""One decided request, alive in its worker until its answer began: what was asked, decided, and tried so far.

In: the pipeline's decision. Out: the provider request of each attempt, made when that attempt begins, from the
client's original body (never from another provider's translation of it). Used by the exchange and by fallback attempts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from extproc.adapters.base import Adapter
from extproc.adapters.registry import adapter_for
from extproc.cache.tape import Tape
from extproc.catalog import Endpoint
from extproc.errors import InvalidRequest, NoProviderAvailable
from extproc.records import ChatRequest, Decision, ProviderRequest, Target


@dataclass(slots=True)
class Attempt:
    """One try at one target."""

    index: int  # 1-based position of the target in the decision
    target: Target
    adapter: Adapter
    request: ProviderRequest


@dataclass(slots=True)
class Plan:
    """Mutable on purpose: attempts are added as Envoy makes them."""

    chat: ChatRequest
    decision: Decision
    response_id: str
    endpoints: Mapping[str, Endpoint]  # of the catalog the request began with
    limit_headers: tuple[tuple[str, str], ...] = ()
    cache_headers: tuple[tuple[str, str], ...] = ()
    tape: Tape = field(default_factory=Tape)  # what of the answer is to be kept
    attempts: list[Attempt] = field(default_factory=list)

    def first(self) -> Attempt:
        """The first attempt. Raises InvalidRequest if its provider cannot express the request, and nor can another."""
        refusal: InvalidRequest | None = None
        try:
            return self._next()
        except NoProviderAvailable as error:
            refusal = error.__cause__ if isinstance(error.__cause__, InvalidRequest) else None
            if refusal is None:
                raise
        raise refusal

    def following(self) -> Attempt:
        """The next attempt. Raises NoProviderAvailable when every target was tried or cannot express the request."""
        return self._next()

    def answered_by(self, index: int | None) -> Attempt:
        """The attempt for target `index`; without an index (the answer came from the first provider), the first."""
        for attempt in self.attempts:
            if attempt.index == index:
                return attempt
        return self.attempts[0]

    def _next(self) -> Attempt:
        tried = self.attempts[-1].index if self.attempts else 0
        refusal: InvalidRequest | None = None
        for position in range(tried, len(self.decision.targets)):
            target = self.decision.targets[position]
            adapter = adapter_for(target, self.response_id, int(self.decision.received_at), self.chat.stream)
            try:
                request = adapter.request(self.chat)
            except InvalidRequest as error:
                refusal = refusal or error
                continue
            attempt = Attempt(position + 1, target, adapter, request)
            self.attempts.append(attempt)
            return attempt
        raise NoProviderAvailable("No provider could answer this request.") from refusal
