"""Protobuf in and out: what Envoy sends, as events; what we answer, as bytes.

In: serialised ProcessingRequest messages. Out: frozen events for the exchange, and serialised ProcessingResponse
messages built from plain values. The only file that knows the protobuf types: replies are joined from encoded fields
(`protowire`), whose numbers stand here by name and are checked against the stubs. Source: envoy.service.ext_proc.v3.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from functools import lru_cache
from typing import Final

import msgspec

from extproc import protowire
from extproc.protowire import field
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
_COPIED_BYTES: Final = 65_536  # of a body, at most
_BODY_TAG, _END = b"\x0a", b"\x10\x01"  # HttpBody: the body's tag; end_of_stream is true


class Kind(Enum):
    """What Envoy can send."""

    REQUEST_HEADERS = "request_headers"
    REQUEST_BODY = "request_body"
    RESPONSE_HEADERS = "response_headers"
    RESPONSE_BODY = "response_body"
    TRAILERS = "trailers"

    __hash__ = object.__hash__  # members are looked up for every message; Enum's own hash runs Python


_KIND_NAMED: Final = {kind.value: kind for kind in Kind}  # an enum's own look-up runs Python
# ProcessingRequest's first byte, where it has a body.
_BODY_KINDS: Final = {4 << 3 | 2: Kind.REQUEST_BODY, 5 << 3 | 2: Kind.RESPONSE_BODY}


class Event(msgspec.Struct, frozen=True):
    """One message of Envoy. `headers` for the header kinds (lower-case names, repeated ones joined by a comma),
    `body` for the body kinds; `end` when nothing of that direction follows."""

    kind: Kind
    headers: dict[str, str] = {}
    body: bytes | memoryview = b""  # a view where it is large
    end: bool = False


def parse(data: bytes) -> Event:
    """The event in `data`. Raises ValueError for bytes that are no known message."""
    event = _parse_body(data)
    if event is not None:
        return event
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


def _parse_body(data: bytes) -> Event | None:
    """A message that is one body and nothing else, as Envoy sends them; None for any other, to be parsed in full."""
    kind = _BODY_KINDS.get(data[0]) if data else None
    if kind is None:
        return None
    try:
        size, at = protowire.take_varint(data, 1)
        if at + size != len(data) or data[at : at + 1] != _BODY_TAG:
            return None
        length, at = protowire.take_varint(data, at + 1)
    except IndexError:
        return None
    rest = data[at + length :]
    if at + length > len(data) or rest not in (b"", _END):
        return None
    body = data[at : at + length] if length <= _COPIED_BYTES else memoryview(data)[at : at + length]
    return Event(kind, body=body, end=rest == _END)


def _headers(items: Iterable[pb.HeaderValue]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for item in items:
        name, raw = item.key, item.raw_value
        value = raw.decode("utf-8", "surrogateescape") if raw else item.value
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def replace(*, headers: HeaderList, remove: Iterable[str], body: bytes, metadata: Metadata) -> bytes:
    """Answer to a request's headers, once its body is known too: what goes to the provider the headers route to."""
    return _with_body(_REQUEST_HEADERS, _REPLACE + _REROUTE + _mutation(headers, remove), body, metadata)


def immediate(*, status: int, headers: HeaderList, body: bytes, metadata: Metadata, details: str) -> bytes:
    """Answer the client now. `details` (no spaces) shows in Envoy's access log."""
    answer = field(1, protowire.number(1, status)) + field(2, _set_headers(headers)) + protowire.text(5, details)
    return field(_IMMEDIATE, answer + field(3, body)) + _metadata(metadata)


def answer_headers(*, headers: HeaderList, remove: Iterable[str], metadata: Metadata) -> bytes:
    """Answer to the response's headers: what the client gets."""
    return field(_RESPONSE_HEADERS, field(_COMMON, _mutation(headers, remove))) + _metadata(metadata)


def answer_body(body: bytes | None, *, headers: HeaderList = (), metadata: Metadata | None = None) -> bytes:
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


def _with_body(reply: int, common: bytes, body: bytes, metadata: Metadata) -> bytes:
    """A reply whose CommonResponse is `common` and `body` in the body's place; joined once, the body last."""
    size = len(body)
    head = field(_BODY_MUTATION, field(1, b"", size), size)
    for number in (_COMMON, reply):
        head = field(number, common + head, size)
        common = b""
    return b"".join((_metadata(metadata), head, body))


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
    fields = b"".join([_entry(key, _value(value)) for key, value in metadata.items()])
    return field(_METADATA, _entry(NAMESPACE, field(5, fields)))


def _value(value: str | bool | Mapping[str, str]) -> bytes:
    if isinstance(value, str):
        return protowire.text(3, value)
    if isinstance(value, bool):
        return protowire.number(4, value)
    return field(5, b"".join([_entry(key, protowire.text(3, text)) for key, text in value.items()]))


def _entry(key: str, value: bytes) -> bytes:
    """One entry of a Struct's map."""
    return field(1, protowire.text(1, key) + field(2, value))
