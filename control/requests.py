"""`GET /v1/requests`: the audit rows, newest first; `GET /v1/requests/{id}`: one of them.

In: filters. Out: `{requests, next_cursor}`, each request with its attempts in `attempt_log`. The cursor is the place of
the last row in the order (received_at, request_id), so that pages neither repeat nor skip a row while new ones are
written.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Any, get_args

import msgspec
from sqlalchemy import ColumnElement, Connection, or_, select, tuple_

from control.auth import Caller
from control.web import moment, whole_number
from extproc.audit.tables import ATTEMPT, AUDIT, attempt_row, audit_row
from extproc.errors import InvalidRequest, NotFound
from extproc.process.logs import rfc3339
from extproc.records import Status
from extproc.settle.rows import AttemptRow, AuditRow, Verdict
from extproc.telemetry.spans import steps_of
from extproc.telemetry.trace_context import context

PARAMETERS = ("team_id", "since", "until", "status", "model", "provider", "limit", "cursor")
MOST_ROWS = 1_000
_DEFAULT_ROWS = 100
_STATUSES = get_args(Status)
# No attempt ends so long before its request was received, whatever the clocks say: older partitions are not looked at.
_BEFORE_S = 3_600.0


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Of a row in the order of the list."""

    received_at: float
    request_id: str


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows are wanted."""

    team_id: str | None = None
    since_s: float | None = None
    until_s: float | None = None  # excluded
    status: str | None = None
    model: str | None = None  # requested or used
    provider: str | None = None  # used
    limit: int = _DEFAULT_ROWS
    after: Place | None = None


def read_filter(given: dict[str, str], caller: Caller) -> Filter:
    """The filter that query parameters mean; a team sees its own rows. Raises InvalidRequest, TeamMismatch."""
    team_id = _text(given, "team_id") if "team_id" in given else caller.team_id
    if team_id is not None:
        caller.require_team(team_id)
    status = given.get("status")
    if status is not None and status not in _STATUSES:
        raise InvalidRequest(f"status must be one of {', '.join(_STATUSES)}.", param="status")
    return Filter(
        team_id=team_id,
        since_s=moment(given, "since"),
        until_s=moment(given, "until"),
        status=status,
        model=_text(given, "model"),
        provider=_text(given, "provider"),
        limit=whole_number(given, "limit", _DEFAULT_ROWS, 1, MOST_ROWS),
        after=_place(given["cursor"]) if "cursor" in given else None,
    )


def select_page(connection: Connection, wanted: Filter) -> dict[str, Any]:
    """The answer's JSON object. Raises SQLAlchemyError."""
    newest_first = (AUDIT.c.received_at.desc(), AUDIT.c.request_id.desc())
    statement = select(AUDIT).where(*_conditions(wanted)).order_by(*newest_first).limit(wanted.limit + 1)
    found = [audit_row(row) for row in connection.execute(statement)]
    rows, more = found[: wanted.limit], len(found) > wanted.limit
    return {
        "requests": _with_attempts(connection, rows),
        "next_cursor": _cursor(Place(rows[-1].received_at, rows[-1].request_id)) if more else None,
    }


def select_one(connection: Connection, request_id: str, team_id: str | None) -> dict[str, Any]:
    """One row; `team_id`: only if it is that team's. Raises NotFound, SQLAlchemyError."""
    mine = [] if team_id is None else [AUDIT.c.team_id == team_id]
    # PostgreSQL's texts have no NUL.
    wanted = select(AUDIT).where(AUDIT.c.request_id == request_id.replace("\0", "\ufffd"), *mine)
    rows = [audit_row(row) for row in connection.execute(wanted)]
    if not rows:
        raise NotFound("There is no such request.", param="id")
    return _with_attempts(connection, rows)[0]


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    row, given = AUDIT.c, []
    if wanted.team_id is not None:
        given.append(row.team_id == wanted.team_id)
    if wanted.since_s is not None:
        given.append(row.received_at >= wanted.since_s)
    if wanted.until_s is not None:
        given.append(row.received_at < wanted.until_s)
    if wanted.status is not None:
        given.append(row.status == wanted.status)
    if wanted.model is not None:
        given.append(or_(row.model_requested == wanted.model, row.model_used == wanted.model))
    if wanted.provider is not None:
        given.append(row.provider_used == wanted.provider)
    if wanted.after is not None:
        last = tuple_(wanted.after.received_at, wanted.after.request_id)
        given.append(tuple_(row.received_at, row.request_id) < last)
    return given


def _with_attempts(connection: Connection, rows: Sequence[AuditRow]) -> list[dict[str, Any]]:
    """Rows as clients see them, each with its attempts in the order they were made."""
    if not rows:
        return []
    since_s = min(row.received_at for row in rows) - _BEFORE_S
    statement = (
        select(ATTEMPT)
        .where(ATTEMPT.c.request_id.in_([row.request_id for row in rows]), ATTEMPT.c.at >= since_s)
        .order_by(ATTEMPT.c.started_at, ATTEMPT.c.at)
    )
    attempts: dict[str, list[Attempt]] = {}
    for found in connection.execute(statement):
        attempt = attempt_row(found)
        attempts.setdefault(attempt.request_id, []).append(_attempt(attempt))
    return [present(row, attempts.get(row.request_id, [])) for row in rows]


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at a provider."""

    provider: str
    model: str
    verdict: Verdict
    status: int | None
    flags: list[str]
    first_byte_ms: float | None
    total_ms: float | None
    started_at: str


def _attempt(row: AttemptRow) -> Attempt:
    return Attempt(
        provider=row.provider,
        model=row.model,
        verdict=row.verdict,
        status=row.status,
        flags=row.flags.split(",") if row.flags else [],
        first_byte_ms=row.first_byte_ms,
        total_ms=row.total_ms,
        started_at=rfc3339(row.started_at),
    )


def present(row: AuditRow, attempts: list[Attempt]) -> dict[str, Any]:
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


def _text(given: dict[str, str], name: str) -> str | None:
    """A query parameter that is compared with texts. Raises InvalidRequest: no text that is kept has a NUL."""
    value = given.get(name)
    if value is not None and "\0" in value:
        raise InvalidRequest(f"{name} must not contain a NUL.", param=name)
    return value


def _cursor(place: Place) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def _place(cursor: str) -> Place:
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        place = msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=Place)
        if "\0" not in place.request_id:
            return place
    except (ValueError, binascii.Error):
        pass
    raise InvalidRequest("cursor must be the next_cursor of an earlier answer.", param="cursor")
