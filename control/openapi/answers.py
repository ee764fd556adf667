"""What the control API answers, as types: of these its document is made, and each answer is held to them by the tests.
Those that a handler makes its answer of stand beside it; here is what is put together of less.

Fields are those of the handlers; times are RFC 3339, money is USD.
"""

from typing import Any, Literal

import msgspec

from control.acceptance import Taken
from control.cache import TeamCacheStats
from control.config_status import Result
from control.keyring import Key
from control.requests import Attempt
from extproc.settings import Budget, Limits
from extproc.settings.routing import TeamRouting
from extproc.settings.teams import Alert, TeamCache
from extproc.settle.rows import AuditRow


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


class CacheStats(Answer, frozen=True):
    teams: list[TeamCacheStats]


class CacheDeleted(Answer, frozen=True):
    entries_deleted: int


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
