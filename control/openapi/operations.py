"""All operations of the API: a route that is not here, or answers others than it says here, fails the tests."""

from typing import Any, Final

from control import series, usage
from control.changes import Grant
from control.keyring import Key, KeyMade
from control.keys import NewKey, Rotation
from control.openapi import answers, chat
from control.openapi.operation import Access, Operation, Schema, duration
from control.requests import PARAMETERS

_DELETION: Final[Schema] = {
    "type": "object",
    "required": ["scope"],
    "additionalProperties": False,
    "properties": {
        "scope": {"type": "string", "enum": ["all", "team", "model", "key"]},
        "team_id": {"type": ["string", "null"]},
        "model": {"type": ["string", "null"]},
        "cache_key": {"type": ["string", "null"], "description": "x-gateway-cache-key of an answer."},
        "older_than": {"anyOf": [duration("Only what was kept longer ago."), {"type": "null"}]},
    },
}
_CHART: Final = ("window", "team_id")


def _get(path: str, tag: str, access: Access, answer: Any, summary: str, **more: Any) -> Operation:
    return Operation(method="GET", path=path, tag=tag, access=access, answer=answer, summary=summary, **more)


def _post(path: str, tag: str, access: Access, answer: Any, summary: str, **more: Any) -> Operation:
    return Operation(method="POST", path=path, tag=tag, access=access, answer=answer, summary=summary, **more)


def _patch(path: str, tag: str, access: Access, answer: Any, summary: str, **more: Any) -> Operation:
    return Operation(method="PATCH", path=path, tag=tag, access=access, answer=answer, summary=summary, **more)


def _delete(path: str, tag: str, access: Access, answer: Any, summary: str, **more: Any) -> Operation:
    return Operation(method="DELETE", path=path, tag=tag, access=access, answer=answer, summary=summary, **more)


DATA_PLANE: Final = (
    _post("/v1/chat/completions", "chat", "team", chat.COMPLETION, "A chat completion.", body=chat.REQUEST),
    _get("/v1/models", "chat", "team", chat.MODELS, "The models this key may use, auto included."),
    _get("/v1/models/{id}", "chat", "team", chat.MODEL, "One of them."),
)

_ONE = "/v1/teams/{id}"
CONTROL: Final = (
    _get("/v1/me", "usage", "any key", answers.Me, "Whose key this is."),
    _get("/v1/usage", "usage", "admin", usage.Usage, "What all teams used and hold."),
    _get(f"{_ONE}/usage", "usage", "own team", usage.TeamUsage, "What a team used and holds."),
    _get("/v1/usage/series", "usage", "own team", series.UsageSeries, "What was used over time.", query=_CHART),
    _get("/v1/usage/routing", "usage", "own team", series.RoutingSeries, "How requests were routed.", query=_CHART),
    _get("/v1/requests", "audit", "own team", answers.Requests, "Requests, newest first.", query=PARAMETERS),
    _get("/v1/requests/{id}", "audit", "any key", answers.Request, "One of them; a team's key finds its team's."),
    _get("/v1/audit", "audit", "admin", answers.Changes, "Who changed what, newest first.", query=("limit", "cursor")),
    _get("/v1/teams", "teams", "admin", answers.Teams, "All teams."),
    _post("/v1/teams", "teams", "admin", answers.Team, "A new team.", body="NewTeam", status=201),
    _get(_ONE, "teams", "admin", answers.Team, "One team."),
    _patch(_ONE, "teams", "admin", answers.Team, "Change a team.", body="TeamChange"),
    _delete(_ONE, "teams", "admin", answers.TeamDeleted, "Delete a team that gateway.yaml does not have."),
    _delete(f"{_ONE}/overrides", "teams", "admin", answers.Team, "Back to gateway.yaml."),
    _post(
        f"{_ONE}/topups",
        "teams",
        "admin",
        answers.TopUpMade,
        "Add to the limit of this day or month, once for each idempotency-key.",
        body=Grant,
        headers=("idempotency-key",),
    ),
    _get(f"{_ONE}/keys", "keys", "admin", answers.Keys, "A team's keys."),
    _post(
        f"{_ONE}/keys",
        "keys",
        "admin",
        KeyMade,
        "A new key, told once.",
        body=NewKey,
        body_required=False,
        status=201,
    ),
    _delete(f"{_ONE}/keys/{{key_id}}", "keys", "admin", Key, "Revoke a key."),
    _post(
        f"{_ONE}/keys/{{key_id}}/rotate",
        "keys",
        "admin",
        KeyMade,
        "A new key for an old one, which holds for the overlap.",
        body=Rotation,
        body_required=False,
        status=201,
    ),
    _get("/v1/providers/health", "providers", "any key", answers.ProvidersHealth, "How providers are doing."),
    _get(
        "/v1/providers/series",
        "providers",
        "any key",
        series.ProviderSeries,
        "How they answered over time.",
        query=("window",),
    ),
    _post("/v1/providers/{name}/drain", "providers", "admin", answers.Drained, "Ask a provider no more."),
    _post("/v1/providers/{name}/enable", "providers", "admin", answers.Drained, "Ask it again."),
    _get("/v1/cache/stats", "cache", "own team", answers.CacheStats, "What the cache saved."),
    _delete("/v1/cache", "cache", "admin", answers.CacheDeleted, "Delete kept answers.", body=_DELETION),
    _get("/v1/config", "operation", "admin", answers.Configuration, "Which configuration is in force."),
    _get("/healthz", "operation", "anyone", answers.Health, "The control process is alive."),
    _get("/readyz", "operation", "anyone", answers.Health, "It can serve."),
    _get("/metrics", "operation", "anyone", chat.TEXT, "Prometheus metrics.", content_type="text/plain"),
    _get("/openapi.json", "operation", "anyone", {"type": "object"}, "This document."),
    _get("/ui", "dashboard", "anyone", chat.TEXT, "To the dashboard.", status=308, content_type=""),
    _get("/ui/", "dashboard", "anyone", chat.TEXT, "The dashboard.", content_type="text/html"),
    _get("/ui/{name}", "dashboard", "anyone", chat.TEXT, "A file of it.", content_type="*/*"),
)
OPERATIONS: Final[tuple[Operation, ...]] = (*DATA_PLANE, *CONTROL)
