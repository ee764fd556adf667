"""What the control API answers, as types: of these its document is made, and each answer is held to them by the tests.

Fields are those of the handlers; times are RFC 3339, money is USD.
"""

from typing import Any, Literal

import msgspec

from control.acceptance import Taken
from control.config_status import Result
from control.keyring import Key
from control.usage import ModelUse
from extproc.settings import Budget, Limits
from extproc.settings.routing import TeamRouting
from extproc.settings.teams import Alert, TeamCache
from extproc.settle.rows import AuditRow, Verdict


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Every field is always there."""


class Error(Answer, frozen=True):
    """OpenAI's."""

    error: "ErrorObject"


class ErrorObject(Answer, frozen=True):
    """`code` tells errors apart; `param` names what is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Health(Answer, frozen=True):
    status: Literal["ok", "ready"]


class Reloads(Answer, frozen=True):
    applied: int
    refused: int


class Configuration(Answer, frozen=True):
    """What is in force; `status`: what came of the last change; `envoy`: its word on each file it watches."""

    file: str
    version: str
    loaded_at: str
    status: Result
    last_attempt_at: str
    problems: list[str]
    reloads: Reloads
    envoy: dict[str, Taken]


class Window(Answer, frozen=True):
    """A day or a month. Limits are those in force, top-ups included; null is no limit."""

    used_tokens: int
    limit_tokens: int | None
    held_tokens: int
    topup_tokens: int
    used_usd: float
    limit_usd: float | None
    held_usd: float
    topup_usd: float
    unpriced_tokens: int
    pct_used: float | None


class TeamWindow(Window, frozen=True):
    resets_at: str


class TeamUsage(Answer, frozen=True):
    """`source` audit: the ledger is away, these are this gateway's own rows."""

    team_id: str
    daily: TeamWindow
    monthly: TeamWindow
    top_models: list[ModelUse]
    alert_thresholds_pct: list[float]
    auto_downgrade_active: bool
    source: Literal["ledger", "audit"]


class Usage(Answer, frozen=True):
    daily: Window
    monthly: Window
    top_models: list[ModelUse]
    auto_downgrade_active: bool
    source: Literal["ledger", "audit"]
    teams: list[TeamUsage]


class Condition(Answer, frozen=True):
    """How a provider, or one model of it, is doing; latencies are those to the first byte."""

    status: Literal["healthy", "degraded", "down", "drained", "unknown"]
    error_rate_1m: float
    error_rate_5m: float
    p50_latency_ms: float | None
    p99_latency_ms: float | None
    circuit: Literal["closed", "open", "half-open"]
    last_failure_at: str | None
    last_success_at: str | None
    circuit_reason: str | None
    circuit_open_until: str | None
    attempts_1m: int
    attempts_5m: int
    p50_total_ms: float | None
    p99_total_ms: float | None


class ModelHealth(Condition, frozen=True):
    model: str


class ProviderHealth(Condition, frozen=True):
    provider: str
    drained: bool
    rate_limited_until: str | None
    models: list[ModelHealth]


class ProvidersHealth(Answer, frozen=True):
    providers: list[ProviderHealth]


class Drained(Answer, frozen=True):
    provider: str
    drained: bool


class Amounts(Answer, frozen=True):
    tokens: int
    usd: float


class TopUps(Answer, frozen=True):
    daily: Amounts
    monthly: Amounts


class TeamListed(Answer, frozen=True):
    """`keys`: the beginnings of their digests; `overridden`: what gateway.yaml does not decide any more."""

    team_id: str
    source: Literal["file", "api"]
    budget: Budget
    limits: Limits
    auto_downgrade: bool
    alert: Alert
    models: list[str]
    allowed_ips: list[str]
    routing: TeamRouting
    cache: TeamCache
    keys: list[str]
    overridden: list[str]


class Team(TeamListed, frozen=True):
    """`topups`: of the day and the month of now; null while the ledger is away."""

    topups: TopUps | None


class Teams(Answer, frozen=True):
    teams: list[TeamListed]


class TeamDeleted(Answer, frozen=True):
    team_id: str
    deleted: bool


class TopUpMade(Answer, frozen=True):
    """`repeated`: it was made before, under the same idempotency-key."""

    team_id: str
    window: Literal["daily", "monthly"]
    unit: Literal["tokens", "usd"]
    amount: float
    window_id: str
    repeated: bool


class Keys(Answer, frozen=True):
    keys: list[Key]


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`who`: the beginning of the digest of an administrator's key. The rest depends on what was done."""

    id: str
    at: str
    who: str
    action: str
    team_id: str = ""
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    key: Key | None = None
    replaces: Key | None = None
    provider: str = ""
    topup: dict[str, Any] = {}
    window_id: str = ""
    window_end_ms: int = 0
    idempotency_key: str = ""


class Changes(Answer, frozen=True):
    entries: list[Change]
    next_cursor: str | None


class Me(Answer, frozen=True):
    role: Literal["admin", "team"]
    team_id: str | None


class Series(Answer, frozen=True):
    window: str
    step_s: int
    since: str
    until: str


class UsagePoint(Answer, frozen=True):
    at: str
    team_id: str
    model: str | None
    requests: int
    failed: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    latency_ms: float


class UsageSeries(Series, frozen=True):
    """A step without requests has no point."""

    points: list[UsagePoint]


class Routed(Answer, frozen=True):
    auto: bool
    decision: str
    model: str | None
    requests: int
    cost_usd: float


class Auto(Answer, frozen=True):
    """Against sending all of its requests to the hard model; null where that has no price, or there is none."""

    requests: int
    cost_usd: float
    hard_model: str | None
    always_hard_usd: float | None
    saved_usd: float | None


class RoutingSeries(Series, frozen=True):
    decisions: list[Routed]
    auto: Auto


class ProviderPoint(Answer, frozen=True):
    at: str
    provider: str
    attempts: int
    errors: int
    p50_latency_ms: float | None
    p99_latency_ms: float | None


class ProviderSeries(Series, frozen=True):
    points: list[ProviderPoint]


class Semantic(Answer, frozen=True):
    """`upper`: with 95 % confidence no larger a share of semantic hits is wrong."""

    threshold: float
    checked: int
    wrong: int
    upper: float


class TeamCacheStats(Answer, frozen=True):
    team_id: str
    hits: int
    semantic_hits: int
    misses: int
    bypasses: int
    hit_rate: float | None
    semantic: Semantic
    estimated_wrong_hit_rate: float | None
    saved_tokens: int
    saved_usd: float
    entries: int
    bytes: int


class CacheStats(Answer, frozen=True):
    teams: list[TeamCacheStats]


class CacheDeleted(Answer, frozen=True):
    entries_deleted: int


class Attempt(Answer, frozen=True):
    """One attempt at a provider."""

    provider: str
    model: str
    verdict: Verdict
    status: int | None
    flags: list[str]
    first_byte_ms: float | None
    total_ms: float | None
    started_at: str


_OTHERWISE_SHOWN = ("cost_nano_usd", "saved_nano_usd", "traceparent", "steps_us", "received_at", "completed_at")
# A column that is added to the audit is in the document with no word here.
Request = msgspec.defstruct(
    "Request",
    [
        *((field.name, field.type) for field in msgspec.structs.fields(AuditRow) if field.name not in _OTHERWISE_SHOWN),
        ("trace_id", str),
        ("steps_us", dict[str, int]),
        ("saved_usd", float | None),
        ("cost_usd", float | None),
        ("price_known", bool),
        ("received_at", str),
        ("completed_at", str),
        ("attempt_log", list[Attempt]),
    ],
    bases=(Answer,),
    frozen=True,
    kw_only=True,
    namespace={"__doc__": "One request, from its arrival to its end, however it ended."},
)
Requests = msgspec.defstruct(
    "Requests",
    [("requests", list[Request]), ("next_cursor", str | None)],  # type: ignore[valid-type]
    bases=(Answer,),
    frozen=True,
    kw_only=True,
)
