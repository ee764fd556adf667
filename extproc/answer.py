"""A provider's whole answer -> what the client gets. Pure.

In: status, headers and body of a finished answer, and the plan it answers. Out: the client's JSON body with the
gateway's fields, and the Outcome for the settler. Streams do not come through here.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from extproc.adapters.base import Final
from extproc.adapters.fold import fold
from extproc.body.encoding import Plain
from extproc.errors import GatewayError, NoProviderAvailable, ProviderError, ProviderTimeout
from extproc.plan import Attempt, Plan
from extproc.pricing import cost_nano_usd
from extproc.records import Outcome, Usage
from extproc.wire import H_NO_PROVIDERS

# Set by Envoy on what a provider answered, absent on what Envoy says itself.
_FROM_PROVIDER = "x-envoy-upstream-service-time"
# Types of what is no stream, though one was asked for; see `may_be_stream`.
_NO_STREAM = ("application/json", "text/html")


class Timing(msgspec.Struct, frozen=True):
    """Of one request, in microseconds."""

    gateway_us: int  # spent in the gateway's own work
    total_us: int  # since the request came in


NOT_TIMED = Timing(gateway_us=0, total_us=0)  # where the answer's body carries no fields of ours


class Answer(msgspec.Struct, frozen=True):
    """What goes to the client, and what goes to the settler."""

    body: bytes
    outcome: Outcome


def whole(
    plan: Plan, attempt: Attempt, headers: Mapping[str, str], body: bytes, timing: Timing, *, fields: bool
) -> Answer:
    """An answer that has come to its end, as it came, with its status in `headers`. `fields`: add the gateway's own.

    Raises GatewayError: it is no answer to the request, or cannot be read.
    """
    status = int(headers.get(":status", "0"))
    plain = Plain(headers.get("content-encoding", ""))
    body = plain.feed(body)
    if plan.refused is not None and status == plan.refused.http_status:
        raise plan.refused
    if status != 200:
        raise failure(attempt, status, headers, body)
    if plan.chat.stream:
        raise ProviderError(f"{attempt.target.provider} answered a streaming request without a stream.")
    if plain.error is not None:
        raise plain.error
    chunks = attempt.adapter.feed(body)
    final = attempt.adapter.finish()
    if final.error is not None:
        final.error.usage = final.usage
        raise final.error
    completion = fold(chunks, final)
    if fields:
        _add_fields(completion, plan, attempt, final, timing)
    return Answer(msgspec.json.encode(completion), outcome(plan, attempt, final))


def may_be_stream(headers: Mapping[str, str]) -> bool:
    """Whether this may be the stream that was asked for. Many a server calls its events text/plain, or nothing."""
    return not headers.get("content-type", "").lower().startswith(_NO_STREAM)


def outcome(plan: Plan, attempt: Attempt, final: Final) -> Outcome:
    """For the settler, of an answer that was read to its end."""
    return Outcome(
        attempt=attempt.index,
        attempts=len(plan.attempts),
        outrun=plan.outrun(attempt),
        usage=final.usage,
        finish_reason=final.finish_reason,
        complete=final.complete,
        error_code=final.error.client_code if final.error else None,
    )


def _add_fields(completion: dict[str, Any], plan: Plan, attempt: Attempt, final: Final, timing: Timing) -> None:
    decision = plan.decision
    completion["model"] = attempt.target.model
    completion["routed_from"] = decision.model_requested
    completion["provider"] = attempt.target.provider
    usage = final.usage or Usage()
    cost = None if final.usage is None else cost_nano_usd(usage, attempt.target.price)
    completion["usage"] = {
        **(completion.get("usage") or {}),
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost_usd": None if cost is None else cost / 1e9,
    }
    completion["gateway_metadata"] = {
        "request_id": decision.request_id,
        "routing_decision": routing_decision(plan, attempt),
        "cache_hit": False,
        "gateway_latency_ms": timing.gateway_us / 1000,
        "total_latency_ms": timing.total_us / 1000,
        "attempts": len(plan.attempts),
    }


def routing_decision(plan: Plan, attempt: Attempt) -> str:
    """Why the model that answers is the one it is."""
    return plan.decision.routing_decision if attempt.index == 1 else "fallback"


def routing_header(plan: Plan, attempt: Attempt) -> str:
    """`routing_decision`, and for `auto` how it came about: `simple_query; tier=simple; score=0.12; reason=lookup`."""
    reason = plan.decision.routing_reason
    decision = routing_decision(plan, attempt)
    return f"{decision}; {reason}" if reason else decision


def failure(attempt: Attempt, status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
    """What the client is told when no attempt succeeded; the last answer was `status`."""
    if _FROM_PROVIDER in headers and H_NO_PROVIDERS not in headers:
        return attempt.adapter.error(status, headers, body)
    if status == 504:
        return ProviderTimeout(f"{attempt.target.provider} did not answer in time.")
    if status == 503 and b"no healthy upstream" in body:
        return NoProviderAvailable("No provider is available for this model now.")
    return ProviderError(f"{attempt.target.provider} could not be reached or broke off before it answered.")
