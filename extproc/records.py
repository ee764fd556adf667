"""The nouns that travel: what was asked, what was decided, what came of it.

In: the client's request and the provider's answer. Out: `Decision` and `Outcome`, which ride in Envoy's dynamic
metadata (namespace `gw`) to the settler as JSON, so that settling needs no worker's memory. All are frozen; units are
in the names. Money is integer nano-USD (1e-9 USD), a price pico-USD per token.
"""

from typing import Any, Literal

import msgspec

from extproc.body.members import Member
from extproc.body.pieces import Body

ProviderFormat = Literal["openai", "azure", "anthropic", "google", "bedrock"]
NATIVE_FORMATS: frozenset[ProviderFormat] = frozenset({"openai", "azure"})  # of the client's own kind
Priority = Literal["low", "normal", "high"]
Feature = Literal["vision", "tools", "json_schema"]
Wish = Literal["cost", "balanced", "quality"]  # of a request for `auto`
Status = Literal["success", "failed", "fallback", "cancelled", "refused"]
CacheStatus = Literal["hit", "semantic-hit", "miss", "bypass"]


class TokenPrice(msgspec.Struct, frozen=True, omit_defaults=True):
    """Pico-USD (1e-12 USD) per token, which is USD per 1M tokens x 1,000,000: $0.0375 per 1M is exactly 37,500.

    None: not known, never taken as 0.
    """

    input: int | None = None
    cached_input: int | None = None  # not known: billed as input
    cache_write: int | None = None
    cache_write_long: int | None = None  # into the longer-lived cache (Anthropic 1 h, OpenAI over 12 h)
    output: int | None = None
    reasoning: int | None = None  # not known: billed as output


class LongContextPrice(TokenPrice, frozen=True, omit_defaults=True):
    """What the whole request costs, input and output, when it has more input tokens than this."""

    above_input_tokens: int = 0


class Price(TokenPrice, frozen=True, omit_defaults=True):
    """Price of one model. `long_context` None: not said; (): the model has no such tiers."""

    long_context: tuple[LongContextPrice, ...] | None = None


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens of one exchange as billed, in one convention for every provider.

    `input_tokens` counts all input: fresh, read from the provider's cache and written to it (OpenAI's convention;
    Anthropic's `input_tokens` excludes both, so its adapter adds them). `output_tokens` includes reasoning.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0  # part of input_tokens
    cache_write_tokens: int = 0  # part of input_tokens
    reasoning_tokens: int = 0  # part of output_tokens
    cache_write_long_tokens: int = 0  # part of cache_write_tokens: into the longer-lived cache


class Target(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model at one provider, as an attempt needs to know it."""

    model: str  # the gateway's name of the model
    upstream_name: str  # the provider's name of it
    provider: str  # the provider's key in gateway.yaml
    format: ProviderFormat
    max_output_tokens: int | None = None
    context_tokens: int | None = None
    price: Price = Price()
    rewrite: str = ""  # of one that stands in for another: instructions that go before the request's own
    unsupported: frozenset[str] = frozenset()  # parameters of OpenAI's that its server refuses


class Large(msgspec.Struct, frozen=True):
    """What is known of a large body beside its object: its members' places, if that is sure, its messages' hash."""

    members: dict[str, Member] | None
    messages_hash: str  # BLAKE3, hex, of the messages as they were sent


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A client's chat completion request, read once.

    `body` is the decoded JSON object, whole and never changed: translating adapters read it through their own types.
    `text` is what the client sent, which pass-through changes in place; empty: only the object is known.
    """

    body: dict[str, Any]
    text: bytes = b""
    large: Large | None = None  # of a `text` that is not to be read again
    model: str
    stream: bool = False
    include_usage: bool = False  # the client sent stream_options.include_usage
    n: int = 1
    max_tokens: int | None = None  # max_completion_tokens, else max_tokens


class ProviderRequest(msgspec.Struct, frozen=True):
    """What goes to a provider: `path` is appended to the provider's base_url path; headers are lower case."""

    path: str
    headers: tuple[tuple[str, str], ...]
    body: Body


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Written when the request has been decided (after its body was read). The request half of the audit row."""

    request_id: str
    team_id: str
    model_requested: str = ""
    model_routed: str = ""
    provider: str = ""  # of the first choice
    routing_decision: str = ""
    routing_reason: str = ""  # how it came to the tier, as x-gateway-routing says it after the decision
    prompt_hash: str = ""  # hex; see chat.prompt_hash
    input_tokens: int = 0  # held
    counted_tokens: int | None = None  # the estimate of the same, where more is held to be sure
    estimated_output_tokens: int = 0
    priority: Priority = "normal"
    received_at: float = 0.0  # seconds since the epoch
    stream: bool = False
    decided_us: int = 0  # gateway time spent until the decision
    steps_us: dict[str, int] = {}  # the same, by step, in order
    traceparent: str | None = None  # the client's
    cache: CacheStatus = "bypass"
    targets: tuple[Target, ...] = ()  # the attempts, in order


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Written when an answer began (native streams) or was complete (all else). The response half."""

    attempt: int = 1  # 1-based: which of Decision.targets answered
    attempts: int = 1  # how many were made; 0: refused before any
    outrun: tuple[int, ...] = ()  # those (as `attempt`) that were under way when this one answered, or answered in vain
    usage: Usage | None = None  # None: not seen by the worker; look at the native usage, else estimate
    finish_reason: str | None = None
    complete: bool = False  # the provider's terminal event, or a whole body, was seen
    error_code: str | None = None  # set when the client was given an error
    unread_bytes: int | None = None  # of an answer, as far as it came: it was torn, or nobody was there to read it
    native: bool = False  # the rest of the answer passes by Envoy alone
    saved_tokens: int = 0  # by an answer from the cache: what it used when it was made
    saved_nano_usd: int | None = None
