"""The shell of the control API: answers as JSON, errors in OpenAI's shape, query parameters that are checked.

In: aiohttp requests. Out: aiohttp responses. Whatever a handler raises becomes an answer here and nowhere else; a
client never sees a stack trace.
"""

import json
import logging
import math
import re
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from extproc.errors import GatewayError, InvalidRequest, MethodNotAllowed, NotFound, RequestTooLarge, in_json_words
from extproc.settings.fields import Wait
from extproc.telemetry.trace_context import ids
from extproc.wire import H_REQUEST_ID

log = logging.getLogger(__name__)

_T = TypeVar("_T", bound=msgspec.Struct)
_WAIT = TypeAdapter(Wait)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(value: object, status: int = 200) -> web.Response:
    """`value` as a JSON answer."""
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what `handler` raises into OpenAI's error shape; give every answer the request's id."""
    try:
        response = await handler(request)
    except GatewayError as error:
        response = _refusal(error)
    except web.HTTPException as error:
        response = _refusal(_translated(request, error))
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
    except Exception:
        told = ids(request.headers.get(H_REQUEST_ID, ""), request.headers.get("traceparent"))
        log.exception("request failed", extra={"method": request.method, "path": request.path} | told)
        response = _refusal(GatewayError("The gateway failed to handle this request."))
    request_id = request.headers.get(H_REQUEST_ID)
    if request_id:
        response.headers["x-gateway-request-id"] = request_id
    return response


def _refusal(error: GatewayError) -> web.Response:
    response = answer(error.payload(), error.http_status)
    if error.http_status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return response


def _translated(request: web.Request, error: web.HTTPException) -> GatewayError:
    """aiohttp's own exceptions: what its router and its parser raise."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods - {"HEAD"}))
        return MethodNotAllowed(f"Not allowed: {request.method} {request.path}; use {allowed}.")
    if error.status == 404:
        return NotFound(f"There is no {request.path} here.")
    if error.status == 413:
        return RequestTooLarge("The request body is too large.")
    return InvalidRequest("The request cannot be read.") if error.status < 500 else GatewayError("The gateway failed.")


async def json_object(request: web.Request) -> dict[str, Any]:
    """The request's body; no query parameter goes with it. Raises InvalidRequest unless it is a JSON object, in which
    no object says two things under one name."""
    query(request, ())
    body = await request.read()
    if not body:
        raise InvalidRequest("The request has no body; send a JSON object.")
    try:
        decoded = msgspec.json.decode(body, type=dict[str, Any])
        json.loads(body, object_pairs_hook=_once)  # msgspec takes the last of two
    except (msgspec.DecodeError, ValueError) as error:
        finding = in_json_words(str(error).partition(" - at ")[0])
        raise InvalidRequest(f"The body must be a JSON object: {finding}.") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.") from None
    return decoded


def _once(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for name, _ in pairs:
        if name in seen:
            raise InvalidRequest(f"{name[:100]}: is given twice.", param=name[:100])
        seen.add(name)


async def body_of(request: web.Request, kind: type[_T]) -> _T:
    """The request's body as a `kind`; no body is an empty object. Raises InvalidRequest, naming the field."""
    query(request, ())
    given = await json_object(request) if request.body_exists else {}
    known = msgspec.structs.fields(kind)
    for name in given:
        if name not in kind.__struct_fields__:
            raise InvalidRequest(f"Unknown field {name!r}; known are {', '.join(kind.__struct_fields__)}.", param=name)
    for field in known:
        if field.required and field.name not in given:
            raise InvalidRequest(f"{field.name} is missing.", param=field.name)
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`")
        if text.startswith("Invalid enum value"):
            text = "must be " + " or ".join(get_args(get_type_hints(kind)[name]))
        raise InvalidRequest(f"{name}: {in_json_words(text[0].lower() + text[1:])}.", param=name) from None


def duration_s(value: str | float, name: str, least_s: float, most_s: float) -> float:
    """`90d`, `24h` or a number of seconds, as seconds. Raises InvalidRequest."""
    try:
        seconds = _WAIT.validate_python(value)
    except ValidationError:
        seconds = math.nan
    if not least_s <= seconds <= most_s:
        most = f"{least_s:g} s to {most_s / 86_400:g} days"
        raise InvalidRequest(f"{name} must be a duration such as 24h or 90d, from {most}.", param=name)
    return seconds


def query(request: web.Request, known: Collection[str]) -> dict[str, str]:
    """The query parameters. Raises InvalidRequest naming one that is unknown (a filter misspelt is no filter) or given
    twice."""
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in known:
            told = f"known are {', '.join(known)}" if known else "there are none here"
            raise InvalidRequest(f"Unknown query parameter {name!r}; {told}.", param=name)
        if name in given:
            raise InvalidRequest(f"The query parameter {name} is given twice.", param=name)
        given[name] = value
    return given


def whole_number(given: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    """A query parameter that is a whole number. Raises InvalidRequest."""
    text = given.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise InvalidRequest(f"{name} must be a whole number from {least} to {most}.", param=name)
    return int(text)


def moment(given: dict[str, str], name: str) -> float | None:
    """A query parameter that is a time: RFC 3339 or seconds since the epoch. Raises InvalidRequest."""
    text = given.get(name)
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,11}(\.[0-9]{1,9})?", text):
        return float(text)
    try:
        # A plus sign that was not escaped arrives as a space.
        parsed = datetime.fromisoformat(re.sub(r" (\d\d:?\d\d)$", r"+\1", text))
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        message = f"{name} must be a time such as 2026-11-24T00:00:00Z, or seconds since the epoch."
        raise InvalidRequest(message, param=name) from None
