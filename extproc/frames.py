"""Protobuf in and out: what Envoy sends, as events; what we answer, as bytes.

In: serialised ProcessingRequest messages. Out: frozen events for the exchange, and serialised ProcessingResponse
messages built from plain values. The only file that knows the protobuf types. Source: envoy.service.ext_proc.v3.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

import msgspec

from extproc.wire import METADATA as NAMESPACE
from protos.gen import extproc_pb2 as pb

HeaderList = Iterable[tuple[str, str]]
Metadata = Mapping[str, str | bool]  # dynamic metadata below `gw`

_OVERWRITE: Final = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


class Kind(Enum):
    """What Envoy can send."""

    REQUEST_HEADERS = "request_headers"
    REQUEST_BODY = "request_body"
    RESPONSE_HEADERS = "response_headers"
    RESPONSE_BODY = "response_body"
    TRAILERS = "trailers"


class Event(msgspec.Struct, frozen=True):
    """One message of Envoy. `headers` for the header kinds (lower-case names, repeated ones joined by a comma),
    `body` for the body kinds; `end` when nothing of that direction follows."""

    kind: Kind
    headers: dict[str, str] = {}
    body: bytes = b""
    end: bool = False


class BodyMode(Enum):
    """How the rest of an answer travels."""

    NONE = pb.ProcessingMode.NONE
    STREAMED = pb.ProcessingMode.STREAMED
    BUFFERED = pb.ProcessingMode.BUFFERED


def parse(data: bytes) -> Event:
    """The event in `data`. Raises ValueError for bytes that are no known message."""
    message = pb.ProcessingRequest()
    try:
        message.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise ValueError("not a ProcessingRequest") from error
    which = message.WhichOneof("request")
    if which in ("request_headers", "response_headers"):
        part = getattr(message, which)
        return Event(Kind(which), headers=_headers(part.headers.headers), end=part.end_of_stream)
    if which in ("request_body", "response_body"):
        part = getattr(message, which)
        return Event(Kind(which), body=part.body, end=part.end_of_stream)
    if which in ("request_trailers", "response_trailers"):
        return Event(Kind.TRAILERS, end=True)
    raise ValueError("an empty ProcessingRequest")


def _headers(items: Iterable[pb.HeaderValue]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for item in items:
        name = item.key
        value = item.raw_value.decode("utf-8", "surrogateescape") if item.raw_value else item.value
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def accept_headers(metadata: Metadata) -> bytes:
    """Go on with the request: its body comes next."""
    response = pb.ProcessingResponse()
    response.request_headers.SetInParent()
    _metadata(response, metadata)
    return response.SerializeToString()


def forward(*, headers: HeaderList, remove: Iterable[str], body: bytes, metadata: Metadata) -> bytes:
    """Answer to the request's body: send this to the provider that the headers route to."""
    response = pb.ProcessingResponse()
    common = response.request_body.response
    common.clear_route_cache = True
    _mutate(common.header_mutation, headers, remove)
    common.body_mutation.body = body
    _metadata(response, metadata)
    return response.SerializeToString()


def replace(*, headers: HeaderList, remove: Iterable[str], body: bytes, metadata: Metadata) -> bytes:
    """Answer to a fallback attempt's headers: the original request, translated anew, with its own body."""
    response = pb.ProcessingResponse()
    common = response.request_headers.response
    common.status = pb.CommonResponse.CONTINUE_AND_REPLACE
    common.clear_route_cache = True
    _mutate(common.header_mutation, headers, remove)
    common.body_mutation.body = body
    _metadata(response, metadata)
    return response.SerializeToString()


def immediate(*, status: int, headers: HeaderList, body: bytes, metadata: Metadata, details: str) -> bytes:
    """Answer the client now. `details` (no spaces) shows in Envoy's access log."""
    response = pb.ProcessingResponse()
    answer = response.immediate_response
    answer.status.code = status
    _mutate(answer.headers, headers, ())
    answer.body = body
    answer.details = details
    _metadata(response, metadata)
    return response.SerializeToString()


def answer_headers(*, headers: HeaderList, remove: Iterable[str], mode: BodyMode, metadata: Metadata) -> bytes:
    """Answer to the response's headers: what the client gets, and how its body goes on."""
    response = pb.ProcessingResponse()
    response.response_headers.SetInParent()
    _mutate(response.response_headers.response.header_mutation, headers, remove)
    if mode is not BodyMode.NONE:
        response.mode_override.response_header_mode = pb.ProcessingMode.SEND
        response.mode_override.response_body_mode = mode.value
    _metadata(response, metadata)
    return response.SerializeToString()


def answer_body(body: bytes | None, *, headers: HeaderList = (), metadata: Metadata | None = None) -> bytes:
    """Answer to (a piece of) the response's body: `body` in its place, None to leave it."""
    response = pb.ProcessingResponse()
    response.response_body.SetInParent()
    common = response.response_body.response
    if body is not None:
        if body:
            common.body_mutation.body = body
        else:
            common.body_mutation.clear_body = True
    _mutate(common.header_mutation, headers, ())
    _metadata(response, metadata or {})
    return response.SerializeToString()


def nothing(kind: Kind) -> bytes:
    """Leave what `kind` brought as it is."""
    response = pb.ProcessingResponse()
    name = "response_trailers" if kind is Kind.TRAILERS else kind.value
    getattr(response, name).SetInParent()
    return response.SerializeToString()


def _mutate(mutation: pb.HeaderMutation, headers: HeaderList, remove: Iterable[str]) -> None:
    for name, value in headers:
        option = mutation.set_headers.add()
        option.append_action = _OVERWRITE
        option.header.key = name
        option.header.raw_value = value.encode("utf-8", "surrogateescape")
    mutation.remove_headers.extend(remove)


def _metadata(response: pb.ProcessingResponse, metadata: Metadata) -> None:
    """Written under the `gw` namespace, merged by key with what was there."""
    if not metadata:
        return
    fields = response.dynamic_metadata.fields[NAMESPACE].struct_value.fields
    for key, value in metadata.items():
        if isinstance(value, bool):
            fields[key].bool_value = value
        else:
            fields[key].string_value = value
