"""Protobuf in and out: what Envoy sends, as events; what we answer, as bytes.

In: serialised ProcessingRequest messages. Out: frozen events for the exchange, and serialised ProcessingResponse
messages built from plain values, a long body left where it is. The only file that knows the protobuf types: what Envoy
usually writes is read field by field, anything else by the stubs; replies are joined from encoded fields (`protowire`).
The fields' numbers stand here by name and are checked against the stubs. Source: envoy.service.ext_proc.v3.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from functools import lru_cache
from typing import Final

import msgspec

from extproc.body.pieces import LONG_BYTES, Body, Pieces, parts_of
from extproc.exchange import protowire
from extproc.exchange.protowire import field, head
from extproc.wire import METADATA as NAMESPACE
from protos.gen import extproc_pb2 as pb

HeaderList = Iterable[tuple[str, str]]
Metadata = Mapping[str, str | bool | Mapping[str, str]]  # dynamic metadata below `gw`

_OVERWRITE: Final = protowire.number(3, pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD)  # append_action
_REPLACE: Final = protowire.number(1, pb.CommonResponse.CONTINUE_AND_REPLACE)  # status
_REROUTE: Final = protowire.number(5, 1)  # clear_route_cache
# Field numbers, as in protos/extproc.proto.
_REQUEST_HEADERS, _RESPONSE_HEADERS, _REQUEST_BODY, _RESPONSE_BODY, _IMMEDIATE = 1, 2, 3, 4, 7  # ProcessingResponse
_METADATA: Final = 8
_COMMON: Final = 1  # the only field of HeadersResponse and BodyResponse
_MUTATION, _BODY_MUTATION = 2, 3  # CommonResponse
# First bytes of what stands beside what we read in a ProcessingRequest: metadata_context, attributes, protocol_config.
_BESIDE: Final = frozenset(number << 3 | 2 for number in (8, 9, 11))
_HEAD_BYTES: Final = 64  # before a body in its message, and behind it, are fewer
_INSIDE: Final = 1 << 3 | 2  # HttpHeaders.headers, HeaderMap.headers, HeaderValue.key, HttpBody.body
_RAW_VALUE: Final = 3 << 3 | 2  # of HeaderValue
_NO_END, _HEADERS_END, _BODY_END = b"", b"\x18\x01", b"\x10\x01"  # end_of_stream


class Kind(Enum):
    """What Envoy can send."""

    REQUEST_HEADERS = "request_headers"
    REQUEST_BODY = "request_body"
    RESPONSE_HEADERS = "response_headers"
    RESPONSE_BODY = "response_body"
    TRAILERS = "trailers"

    __hash__ = object.__hash__  # members are looked up for every message; Enum's own hash runs Python


_KIND_NAMED: Final = {kind.value: kind for kind in Kind}  # an enum's own look-up runs Python
# ProcessingRequest's first byte, where it has headers or a body.
_HEADER_KINDS: Final = {2 << 3 | 2: Kind.REQUEST_HEADERS, 3 << 3 | 2: Kind.RESPONSE_HEADERS}
_BODY_KINDS: Final = {4 << 3 | 2: Kind.REQUEST_BODY, 5 << 3 | 2: Kind.RESPONSE_BODY}


class Event(msgspec.Struct, frozen=True):
    """One message of Envoy. `headers` for the header kinds (lower-case names, repeated ones joined by a comma),
    `body` for the body kinds; `end` when nothing of that direction follows."""

    kind: Kind
    headers: dict[str, str] = {}
    body: Body | memoryview = b""  # where it lies in the message, if it is large
    end: bool = False


def parse(data: Body) -> Event:
    """The event in `data`. Raises ValueError for bytes that are no known message."""
    try:
        event = _usual(data) if isinstance(data, bytes) else _long(data)
    except (IndexError, UnicodeDecodeError):
        event = None
    return event or _any(bytes(data))


def _long(data: Pieces) -> Event | None:
    """A body that came in pieces, with the place of its bytes; as `_usual` of the message without them."""
    head = bytes(data.cut(0, _HEAD_BYTES))
    size, at = protowire.take_varint(head, 1)
    end = at + size
    size, begin = protowire.take_varint(head, at + 1)
    after = begin + size
    if head[0] not in _BODY_KINDS or head[at] != _INSIDE or not after <= end <= len(data) <= after + _HEAD_BYTES:
        return None
    inside = protowire.field(1, b"")
    bare = head[:1] + protowire.varint(len(inside) + end - after) + inside + bytes(data.cut(after, len(data)))
    event = _usual(bare)
    return event and Event(event.kind, body=data.cut(begin, after), end=event.end)


def _usual(data: bytes) -> Event | None:
    """A message as Envoy writes them; None for one written otherwise. Raises IndexError, UnicodeDecodeError."""
    size, at = protowire.take_varint(data, 1)
    end = after = at + size
    while after < len(data):
        if data[after] not in _BESIDE:
            return None
        size, after = protowire.take_varint(data, after + 1)
        after += size
    if after != len(data) or data[at] != _INSIDE:
        return None
    size, at = protowire.take_varint(data, at + 1)
    rest = data[at + size : end]
    if at + size > end:
        return None
    if (kind := _BODY_KINDS.get(data[0])) is not None and rest in (_NO_END, _BODY_END):
        body = data[at : at + size] if size <= LONG_BYTES else memoryview(data)[at : at + size]
        return Event(kind, body=body, end=rest == _BODY_END)
    if (kind := _HEADER_KINDS.get(data[0])) is not None and rest in (_NO_END, _HEADERS_END):
        headers = _usual_headers(data, at, at + size)
        return None if headers is None else Event(kind, headers=headers, end=rest == _HEADERS_END)
    return None


def _usual_headers(data: bytes, at: int, end: int) -> dict[str, str] | None:
    """The fields of a HeaderMap, each a short name and its raw value. As `_usual`; each length is mostly one byte."""
    headers: dict[str, str] = {}
    while at < end:
        size, begin = data[at + 1], at + 2
        if size > 0x7F:
            size, begin = protowire.take_varint(data, at + 1)
        after, name_at = begin + size, begin + 2
        value_at = name_at + data[begin + 1]
        if data[at] != _INSIDE or data[begin] != _INSIDE or data[begin + 1] > 0x7F or value_at > after:
            return None
        name, value = data[name_at:value_at].decode(), ""
        if value_at < after:
            size, begin = data[value_at + 1], value_at + 2
            if size > 0x7F:
                size, begin = protowire.take_varint(data, value_at + 1)
            if data[value_at] != _RAW_VALUE or begin + size != after:
                return None
            value = data[begin:after].decode("utf-8", "surrogateescape")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
        at = after
    return headers if at == end else None


def _any(data: bytes) -> Event:
    """The event in `data`, read by the stubs."""
    message = pb.ProcessingRequest()
    try:
        message.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise ValueError("not a ProcessingRequest") from error
    which = message.WhichOneof("request")
    if which in ("request_headers", "response_headers"):
        part = getattr(message, which)
        return Event(_KIND_NAMED[which], headers=_headers(part.headers.headers), end=part.end_of_stream)
    if which in ("request_body", "response_body"):
        part = getattr(message, which)
        return Event(_KIND_NAMED[which], body=part.body, end=part.end_of_stream)
    if which in ("request_trailers", "response_trailers"):
        return Event(Kind.TRAILERS, end=True)
    raise ValueError("an empty ProcessingRequest")


def _headers(items: Iterable[pb.HeaderValue]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for item in items:
        name, raw = item.key, item.raw_value
        value = raw.decode("utf-8", "surrogateescape") if raw else item.value
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def replace(*, headers: HeaderList, remove: Iterable[str], body: Body, metadata: Metadata) -> Body:
    """Answer to a request's headers, once its body is known too: what goes to the provider the headers route to."""
    return _with_body(_REQUEST_HEADERS, _REPLACE + _REROUTE + _mutation(headers, remove), body, metadata)


def immediate(*, status: int, headers: HeaderList, body: bytes, metadata: Metadata, details: str) -> bytes:
    """Answer the client now. `details` (no spaces) shows in Envoy's access log."""
    answer = field(1, protowire.number(1, status)) + field(2, _set_headers(headers)) + protowire.text(5, details)
    return field(_IMMEDIATE, answer + field(3, body)) + _metadata(metadata)


def answer_headers(*, headers: HeaderList, remove: Iterable[str], metadata: Metadata) -> bytes:
    """Answer to the response's headers: what the client gets."""
    return field(_RESPONSE_HEADERS, field(_COMMON, _mutation(headers, remove))) + _metadata(metadata)


def answer_body(body: bytes | None, *, headers: HeaderList = (), metadata: Metadata | None = None) -> Body:
    """Answer to (a piece of) the response's body: `body` in its place, None to leave it."""
    mutation = _mutation(headers, ()) if headers else b""
    if body:
        return _with_body(_RESPONSE_BODY, mutation, body, metadata or {})
    cleared = b"" if body is None else field(_BODY_MUTATION, protowire.number(2, 1))
    return field(_RESPONSE_BODY, field(_COMMON, mutation + cleared)) + _metadata(metadata or {})


def nothing(kind: Kind) -> bytes:
    """Leave what `kind` brought as it is."""
    response = pb.ProcessingResponse()
    name = "response_trailers" if kind is Kind.TRAILERS else kind.value
    getattr(response, name).SetInParent()
    return response.SerializeToString()


def _with_body(reply: int, common: bytes, body: Body, metadata: Metadata) -> Body:
    """A reply whose CommonResponse is `common` and `body` in the body's place; joined once at most, the body last."""
    size = len(body)
    inner = head(1, size)
    common += head(_BODY_MUTATION, len(inner) + size) + inner
    outer = head(_COMMON, len(common) + size)
    parts = (_metadata(metadata), head(reply, len(outer) + len(common) + size), outer, common, *parts_of(body))
    return Pieces(parts) if size > LONG_BYTES else b"".join(parts)


def _mutation(headers: HeaderList, remove: Iterable[str]) -> bytes:
    return field(_MUTATION, _set_headers(headers) + _removals(tuple(remove)))


def _set_headers(headers: HeaderList) -> bytes:
    return b"".join([_option(name, value) for name, value in headers])


# Most headers come again: names and values of models, providers, limits, types; names of what an SDK or provider sends.
@lru_cache(maxsize=4096)
def _option(name: str, value: str) -> bytes:
    header = field(1, protowire.text(1, name) + protowire.text(3, value))
    return field(1, header + _OVERWRITE)


@lru_cache(maxsize=1024)
def _removals(names: tuple[str, ...]) -> bytes:
    return b"".join([protowire.text(2, name) for name in names])


def _metadata(metadata: Metadata) -> bytes:
    """Written under the `gw` namespace, merged by key with what was there. A Struct in a Struct."""
    if not metadata:
        return b""
    fields = b"".join([_entry(key, value) for key, value in metadata.items()])
    return field(_METADATA, field(1, _key(NAMESPACE) + field(2, field(5, fields))))


def _entry(key: str, value: str | bool | Mapping[str, str]) -> bytes:
    """One entry of a Struct's map."""
    if isinstance(value, bool):
        kind, rest = protowire.number(4, value), b""
    elif isinstance(value, str):
        rest = protowire.raw(value)
        kind = head(3, len(rest))
    else:
        rest = b"".join([_entry(inner, text) for inner, text in value.items()])
        kind = head(5, len(rest))
    begin = _key(key) + head(2, len(kind) + len(rest)) + kind
    return head(1, len(begin) + len(rest)) + begin + rest


@lru_cache(maxsize=256)
def _key(name: str) -> bytes:
    return protowire.text(1, name)
