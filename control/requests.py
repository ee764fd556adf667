"""`GET /v1/requests`: the audit rows, newest first.

In: filters. Out: `{requests, next_cursor}`, each request with its attempts in `attempt_log`. The cursor is the place of
the last row in the order (received_at, id), so that pages neither repeat nor skip a row while new ones are written.
"""

import base64
import binascii
import sqlite3
from typing import Any, get_args

import msgspec

from control.auth import Caller
from control.web import moment, whole_number
from extproc.errors import InvalidRequest
from extproc.logs import rfc3339
from extproc.records import Status
from extproc.settle.journal import audit_row
from extproc.settle.rows import AuditRow
from extproc.telemetry.spans import steps_of
from extproc.telemetry.trace_context import context

PARAMETERS = ("team_id", "since", "status", "model", "limit", "cursor")
MOST_ROWS = 1_000
_DEFAULT_ROWS = 100
_STATUSES = get_args(Status)
_COLUMNS = ", ".join(AuditRow.__struct_fields__)


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Of a row in the order of the list."""

    received_at: float
    id: int


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows are wanted."""

    team_id: str | None = None
    since_s: float | None = None
    status: str | None = None
    model: str | None = None  # requested or used
    limit: int = _DEFAULT_ROWS
    after: Place | None = None


def read_filter(given: dict[str, str], caller: Caller) -> Filter:
    """The filter that query parameters mean; a team sees its own rows. Raises InvalidRequest, TeamMismatch."""
    team_id = given.get("team_id", caller.team_id)
    if team_id is not None:
        caller.require_team(team_id)
    status = given.get("status")
    if status is not None and status not in _STATUSES:
        raise InvalidRequest(f"status must be one of {', '.join(_STATUSES)}.", param="status")
    return Filter(
        team_id=team_id,
        since_s=moment(given, "since"),
        status=status,
        model=given.get("model"),
        limit=whole_number(given, "limit", _DEFAULT_ROWS, 1, MOST_ROWS),
        after=_place(given["cursor"]) if "cursor" in given else None,
    )


def select(connection: sqlite3.Connection, wanted: Filter) -> dict[str, Any]:
    """The answer's JSON object. Raises sqlite3.Error."""
    conditions, values = _conditions(wanted)
    where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
    found = connection.execute(
        f"SELECT id, {_COLUMNS} FROM audit {where}ORDER BY received_at DESC, id DESC LIMIT ?",  # noqa: S608 - constants
        (*values, wanted.limit + 1),
    ).fetchall()
    page = found[: wanted.limit]
    rows = [audit_row(row[1:]) for row in page]
    attempts = _attempts(connection, [row.request_id for row in rows])
    more = len(found) > wanted.limit
    return {
        "requests": [present(row, attempts.get(row.request_id, [])) for row in rows],
        "next_cursor": _cursor(Place(rows[-1].received_at, page[-1][0])) if more else None,
    }


def _conditions(wanted: Filter) -> tuple[list[str], list[object]]:
    conditions: list[str] = []
    values: list[object] = []

    def add(condition: str, *given: object) -> None:
        if None not in given:
            conditions.append(condition)
            values.extend(given)

    add("team_id = ?", wanted.team_id)
    add("received_at >= ?", wanted.since_s)
    add("status = ?", wanted.status)
    add("(model_requested = ? OR model_used = ?)", wanted.model, wanted.model)
    if wanted.after is not None:
        add("(received_at, id) < (?, ?)", wanted.after.received_at, wanted.after.id)
    return conditions, values


def _attempts(connection: sqlite3.Connection, request_ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    """What is told of the attempts of these requests, in the order they were made."""
    rows = connection.execute(
        "SELECT request_id, provider, model, verdict, status, flags, first_byte_ms, total_ms, started_at FROM attempt"
        " WHERE request_id IN (SELECT value FROM json_each(?)) ORDER BY started_at, id",
        (msgspec.json.encode(request_ids).decode(),),
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for request_id, provider, model, verdict, status, flags, first_byte_ms, total_ms, started_at in rows:
        shown = {
            "provider": provider,
            "model": model,
            "verdict": verdict,
            "status": status,
            "flags": flags.split(",") if flags else [],
            "first_byte_ms": first_byte_ms,
            "total_ms": total_ms,
            "started_at": rfc3339(started_at),
        }
        found.setdefault(request_id, []).append(shown)
    return found


def present(row: AuditRow, attempts: list[dict[str, Any]]) -> dict[str, Any]:
    """A row as clients see it: money in USD, times in RFC 3339."""
    shown = msgspec.structs.asdict(row)
    cost, saved = shown.pop("cost_nano_usd"), shown.pop("saved_nano_usd")
    del shown["traceparent"]
    return shown | {
        "trace_id": context(row.request_id, row.traceparent).trace_id,
        "steps_us": steps_of(row),
        "saved_usd": None if saved is None else saved / 1e9,
        "cost_usd": None if cost is None else cost / 1e9,
        "price_known": cost is not None,
        "received_at": rfc3339(row.received_at),
        "completed_at": rfc3339(row.completed_at),
        "attempt_log": attempts,
    }


def _cursor(place: Place) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def _place(cursor: str) -> Place:
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        return msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=Place)
    except (ValueError, binascii.Error):
        raise InvalidRequest("cursor must be the next_cursor of an earlier answer.", param="cursor") from None
