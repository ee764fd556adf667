"""What the settler writes down: one row per request, one per attempt upstream.

In: made by `settle` from access log entries. Out: written by the journal (a column each, of the same name), read by the
control API. Times are seconds since the epoch, money is integer nano-USD (1e-9 USD).
"""

from typing import Final, Literal

import msgspec

from extproc.records import CacheStatus, Priority, Status

UNRECONCILED: Final = "unreconciled"  # error_code of a row that is made of a hold nobody settled

Verdict = Literal["ok", "error", "rate_limited", "abandoned"]


class AuditRow(msgspec.Struct, frozen=True, kw_only=True):
    """One authenticated request, from its arrival to its end, however it ended."""

    request_id: str
    team_id: str
    model_requested: str
    model_routed: str
    model_used: str | None  # None: no attempt was made
    provider_used: str | None
    status: Status
    error_code: str | None
    http_status: int | None  # None: the client left before one was sent
    routing_decision: str
    attempts: int
    priority: Priority
    stream: bool
    native: bool  # the answer passed by Envoy alone
    cache_hit: bool
    prompt_hash: str
    input_tokens: int  # as billed, as all tokens that are not called estimated
    output_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    estimated_input_tokens: int
    estimated_output_tokens: int
    estimated: bool  # the provider's usage was never seen: tokens and cost are estimates
    outrun_tokens: int  # input of attempts that lost a race (hedging), estimated; their cost is in the cost
    cost_nano_usd: int | None  # None: the price of a part that was used is not known
    finish_reason: str | None
    received_at: float
    completed_at: float
    latency_ms: float
    first_byte_ms: float | None
    gateway_latency_ms: float | None
    response_bytes: int  # of the body, as sent to the client
    details: str  # Envoy's response code details
    traceparent: str | None = None  # the client's
    steps_us: str = ""  # of the decision: a JSON object of microseconds by step, in order
    cache: CacheStatus = "bypass"
    saved_tokens: int = 0  # by an answer from the cache: what it used when it was made
    saved_nano_usd: int | None = 0  # None: its price was not known


class AttemptRow(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at a provider, as Envoy saw it."""

    request_id: str
    provider: str
    model: str  # the gateway's name; "": of before it was written down
    started_at: float  # tells the attempts of a request apart
    verdict: Verdict
    status: int | None  # None: no answer came
    flags: str  # Envoy's response flags that are set, comma-separated
    first_byte_ms: float | None  # from the first byte sent to the first one back
    total_ms: float | None
    stream: bool  # the answer was one
    retry_after_s: float | None  # what the provider asked for
    at: float  # its end
