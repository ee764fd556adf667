"""A request that is answered from the cache: what its client gets, and what the settler is told. Pure.

In: the hit and who asked. Out: the body of the answer, its headers, the Decision and the Outcome of its audit row: no
attempt was made, no token was used. Made by the pipeline, turned into a reply by the exchange.
"""

from typing import Any

import msgspec

from extproc.cache import replay
from extproc.cache.hit import Hit
from extproc.records import ChatRequest, Decision, Outcome

ROUTING = "cache_hit"
Header = tuple[str, str]


class Served(msgspec.Struct, frozen=True):
    """One answer out of the cache."""

    chat: ChatRequest
    decision: Decision
    hit: Hit
    headers: tuple[Header, ...]  # of the cache and of the team's limits

    @property
    def outcome(self) -> Outcome:
        """For the settler."""
        entry = self.hit.entry
        return Outcome(
            attempts=0,
            complete=True,
            finish_reason="stop",
            saved_tokens=entry.usage.input_tokens + entry.usage.output_tokens,
            saved_nano_usd=entry.cost_nano_usd,
        )

    def answer_headers(self) -> list[Header]:
        """All that the client gets with it."""
        kind = "text/event-stream; charset=utf-8" if self.chat.stream else "application/json"
        return [
            ("content-type", kind),
            ("x-gateway-request-id", self.decision.request_id),
            ("x-gateway-model", self.hit.entry.model),
            ("x-gateway-provider", self.hit.entry.provider),
            ("x-gateway-routing", ROUTING),
            ("x-gateway-attempts", "0"),
            *self.headers,
        ]

    def body(self, *, fields: bool, gateway_us: int, total_us: int) -> bytes:
        """The answer, as the client asked for it. `fields`: with the gateway's own, in a whole answer."""
        completion = replay.completion_of(self.hit)
        if self.chat.stream:
            return replay.stream(completion, include_usage=self.chat.include_usage)
        return replay.whole(completion, self._fields(gateway_us, total_us) if fields else None)

    def _fields(self, gateway_us: int, total_us: int) -> dict[str, Any]:
        """`usage.cost_usd` is what this request cost: nothing. What it would have cost is saved."""
        entry, outcome = self.hit.entry, self.outcome
        saved = outcome.saved_nano_usd
        return {
            "routed_from": self.decision.model_requested,
            "provider": entry.provider,
            "usage": {
                "input_tokens": entry.usage.input_tokens,
                "output_tokens": entry.usage.output_tokens,
                "cost_usd": 0.0,
            },
            "gateway_metadata": {
                "request_id": self.decision.request_id,
                "routing_decision": ROUTING,
                "cache_hit": True,
                "gateway_latency_ms": gateway_us / 1000,
                "total_latency_ms": total_us / 1000,
                "attempts": 0,
                "saved_tokens": outcome.saved_tokens,
                "saved_usd": None if saved is None else saved / 1e9,
            },
        }
