"""Which trace a request belongs to. Pure.

In: the client's `traceparent`, if it sent one, and the request's id. Out: the trace's id and the spans' ids, which
follow from both alone: whoever knows a request's id knows its trace, and a span that is sent twice is the same span.
Source: w3.org/TR/trace-context, section 3.2.
"""

import hashlib
import re
from typing import Final

import msgspec

# Version 00; a higher one may go on after the flags. `ff` is forbidden.
_FORM: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_SAMPLED: Final = 0x01
_LONGEST: Final = 256  # of a header that is looked at


class Context(msgspec.Struct, frozen=True):
    """A request's place in a trace."""

    trace_id: str  # 32 hex digits
    parent_span_id: str | None  # 16 hex digits; None: the request begins the trace
    sampled: bool = True


def kept(header: str) -> str | None:
    """What a request keeps of its client's `traceparent`, which is written down with it; None: nothing."""
    # Bytes that are no UTF-8 come escaped, and could not be written. The standard knows ASCII alone.
    return header[:_LONGEST] or None if header.isascii() else None


def context(request_id: str, traceparent: str | None) -> Context:
    """The client's trace where it named one, else one of the request's own. A header that is not valid names none."""
    found = _FORM.fullmatch(traceparent) if traceparent else None
    if found and int(found[1], 16) and int(found[2], 16):
        return Context(found[1], found[2], bool(int(found[3], 16) & _SAMPLED))
    return Context(_own_trace_id(request_id), None)


def ids(request_id: str, traceparent: str | None) -> dict[str, str]:
    """What a log line about one request says of it."""
    return {"request_id": request_id, "trace_id": context(request_id, traceparent).trace_id}


def _own_trace_id(request_id: str) -> str:
    """A UUID is a trace id but for its dashes; any other request id is hashed."""
    plain = request_id.replace("-", "").lower()
    if re.fullmatch(r"[0-9a-f]{32}", plain) and int(plain, 16):
        return plain
    return hashlib.sha256(request_id.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def span_id(request_id: str, name: str) -> str:
    """16 hex digits, of the span `name` of a request."""
    text = f"{request_id}/{name}".encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:16]
