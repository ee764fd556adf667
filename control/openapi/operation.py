"""One operation of the API, as its document and the tests of its roles need to know it."""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

Schema = dict[str, Any]
# Whom it answers: everybody; any key; a team's key about its own team and an administrator's about all; administrators.
# `team`: team keys alone, which is the data plane.
Access = Literal["anyone", "any key", "own team", "admin", "team"]


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """`answer`: a type, or a schema. `body`: the same of the request's, None if it has none."""

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    tag: str
    summary: str
    access: Access
    answer: Any
    status: int = 200
    content_type: str = "application/json"
    body: Any = None
    body_required: bool = True
    query: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """A name for generated clients: `GET /v1/teams/{id}/keys` is get_v1_teams_id_keys."""
        path = f"{self.path}index" if self.path.endswith("/") else self.path
        words = path.translate(str.maketrans("/.{}", "____")).split("_")
        return "_".join([self.method.lower(), *filter(None, words)])


_TEXT: Final[Schema] = {"type": "string"}
_MOMENT: Final[Schema] = {"type": "string", "description": "RFC 3339, or seconds since the epoch."}
_DURATION_TEXT: Final = r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$"


def duration(description: str, *, null: bool = False) -> Schema:
    """The schema of a duration; `null`: or of none."""
    forms: list[Schema] = [
        {"type": "string", "pattern": _DURATION_TEXT, "examples": ["24h"]},
        {"type": "number", "minimum": 0},
    ]
    forms += [{"type": "null"}] if null else []
    return {"description": f"{description} A duration such as 24h or 90d, or a number of seconds.", "anyOf": forms}


PARAMETERS: Final[Mapping[str, Schema]] = {
    "team_id": _TEXT | {"description": "Of one team. A team's key sees its own."},
    "since": _MOMENT | {"description": "Received at or after. RFC 3339, or seconds since the epoch."},
    "until": _MOMENT | {"description": "Received before. RFC 3339, or seconds since the epoch."},
    "status": {"type": "string", "enum": ["success", "failed", "fallback", "cancelled", "refused"]},
    "model": _TEXT | {"description": "Asked for, or used."},
    "provider": _TEXT | {"description": "Used."},
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    "cursor": _TEXT | {"description": "next_cursor of the answer before."},
    "window": {"type": "string", "enum": ["1h", "24h", "7d", "30d"], "default": "24h"},
    "idempotency-key": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": r"^[!-~]([ -~]*[!-~])?$"},
}
PATH_PARAMETERS: Final[Mapping[str, str]] = {
    "id": "Of a team, a model or a request, as the path says; a slash in it is written %2F.",
    "key_id": "key_id of the list of keys.",
    "name": "As in gateway.yaml; of /ui, a file.",
}
