"""What an exchange's replies are made of: which headers pass, how an attempt is routed, an answer of our own.

In: attempts and records. Out: headers and replies. Pure.
"""

import math
from functools import lru_cache

import msgspec

from extproc.answer import routing_header
from extproc.catalog import Endpoint
from extproc.errors import GatewayError, MethodNotAllowed
from extproc.exchange import frames
from extproc.exchange.frames import Metadata
from extproc.plan import Attempt, Plan
from extproc.records import Outcome
from extproc.wire import (
    H_CLUSTER,
    H_HEDGE,
    H_MAX_RETRIES,
    H_MODEL,
    H_PER_TRY_TIMEOUT,
    H_RETRY_ON,
    OWN_ANSWER,
    RETRY_ELSEWHERE,
    chain_cluster,
)

# What may go from a client to a provider; all else stays here (cookies, our own keys, SDK fingerprints).
# x-forwarded-proto is for Envoy, which routes nothing without it; its provider clusters take it off.
TO_PROVIDER = frozenset({"content-type", "content-length", "accept", "user-agent", "x-request-id", "x-forwarded-proto"})
# What may go from a provider to a client; its account's rate limits, cookies and ids are not the client's business.
TO_CLIENT = frozenset({":status", "content-type", "content-length", "transfer-encoding", "date", "cache-control"})


JSON = ("content-type", "application/json")
EVENTS = ("content-type", "text/event-stream; charset=utf-8")
ATTEMPTS = "x-gateway-attempts"


def immediate(status: int, body: bytes, headers: list[tuple[str, str]], metadata: Metadata, details: str) -> bytes:
    """An answer that no provider has seen; `details` is how Envoy's log calls it."""
    return frames.immediate(
        status=status, headers=headers, body=body, metadata=metadata, details=f"{OWN_ANSWER}{details}"
    )


def as_json(record: msgspec.Struct) -> str:
    """A record as it goes into dynamic metadata."""
    return msgspec.json.encode(record).decode()


@lru_cache(maxsize=1024)
def not_for_providers(names: tuple[str, ...]) -> tuple[str, ...]:
    """Of a client's headers, those that stay here. Also such as the gateway sets: Envoy removes first, then sets."""
    return tuple(name for name in names if name not in TO_PROVIDER and name[0] != ":")


def chain_headers(plan: Plan, attempt: Attempt, worker: int) -> list[tuple[str, str]]:
    """Where the first attempt goes, and what Envoy is to do when nothing comes of it: ask `worker` for the next."""
    return [
        *routing_headers(plan, attempt),
        (H_CLUSTER, chain_cluster(attempt.target.provider, worker)),
        (H_MAX_RETRIES, str(plan.retries)),
        *([] if plan.alone else [(H_RETRY_ON, RETRY_ELSEWHERE)]),
        (H_PER_TRY_TIMEOUT, str(plan.deadline.ms)),
        *([(H_HEDGE, "true")] if plan.deadline.race else []),
    ]


def routing_headers(plan: Plan, attempt: Attempt) -> list[tuple[str, str]]:
    """Where an attempt goes, and what its provider's format wants in headers."""
    endpoint = plan.endpoints[attempt.target.provider]
    return [
        (":path", _path(endpoint, attempt)),
        (":authority", endpoint.authority),
        ("content-length", str(len(attempt.request.body))),
        ("accept-encoding", "identity"),
        (H_MODEL, attempt.target.model),
        *attempt.request.headers,
    ]


def answer_headers(plan: Plan) -> list[tuple[str, str]]:
    """What the client is told of its request, whoever answers."""
    return [("x-gateway-request-id", plan.decision.request_id), *plan.limit_headers]


def attempt_headers(plan: Plan, attempt: Attempt) -> list[tuple[str, str]]:
    """And of the attempt that answers it."""
    return [
        ("x-gateway-model", attempt.target.model),
        ("x-gateway-provider", attempt.target.provider),
        *plan.cache_headers,
        ("x-gateway-routing", routing_header(plan, attempt)),
    ]


def error_headers(error: GatewayError) -> list[tuple[str, str]]:
    """Of an answer that is an error of ours."""
    wait = [] if error.retry_after_s is None else [("retry-after", str(max(1, math.ceil(error.retry_after_s))))]
    allow = [("allow", error.allow)] if isinstance(error, MethodNotAllowed) else []
    scheme = [("www-authenticate", "Bearer")] if error.http_status == 401 else []  # RFC 9110, 15.5.2
    return [JSON, *wait, *allow, *scheme]


def refusal(error: GatewayError, plan: Plan | None, attempt: Attempt | None) -> Outcome:
    """What becomes of a request whose client is given `error`; with an attempt, after that."""
    return Outcome(
        attempt=attempt.index if attempt else 1,
        attempts=len(plan.attempts) if plan and attempt else 0,
        outrun=plan.unused(attempt) if plan and attempt else (),
        usage=error.usage,
        error_code=error.client_code,
        complete=True,
    )


def _path(endpoint: Endpoint, attempt: Attempt) -> str:
    """The path of the request at its provider's base URL, with the queries of both."""
    path = f"{endpoint.base_path}{attempt.request.path}"
    if not endpoint.query:
        return path
    return f"{path}{'&' if '?' in attempt.request.path else '?'}{endpoint.query}"
