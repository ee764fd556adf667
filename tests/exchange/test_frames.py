"""Messages as we write and read them, against the generated stubs."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from extproc.body.pieces import LONG_BYTES, Body, Pieces, joined
from extproc.exchange import frames, protowire
from extproc.exchange.frames import Event, Kind
from protos.gen import extproc_pb2 as pb

# What Envoy can have in a header: any bytes, which reach us with those that are no UTF-8 escaped.
VALUES = st.binary(max_size=200).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
NAMES = st.text("abcdefghijklmnopqrstuvwxyz-:", min_size=1, max_size=20)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=5)
REMOVED = st.lists(NAMES, max_size=5)
BODIES = st.one_of(st.binary(max_size=300), st.integers(0, 40_000).map(lambda size: b"x" * size))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
VALUE = st.one_of(st.booleans(), TEXTS, st.dictionaries(NAMES, TEXTS, max_size=3))
METADATA = st.dictionaries(NAMES, VALUE, max_size=3)
# What Envoy 1.38 puts behind each message: an empty metadata_context, and its protocol_config behind the first.
BESIDE = [b"", b"B\x00", b"B\x00Z\x06\x08\x01\x10\x01\x18\x01"]


def mutation(headers: list[tuple[str, str]], remove: list[str]) -> pb.HeaderMutation:
    options = [
        pb.HeaderValueOption(
            header=pb.HeaderValue(key=name, raw_value=value.encode("utf-8", "surrogateescape")),
            append_action=pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
        for name, value in headers
    ]
    return pb.HeaderMutation(set_headers=options, remove_headers=remove)


def reply(metadata: dict[str, Any], **parts: Any) -> pb.ProcessingResponse:
    response = pb.ProcessingResponse(**parts)
    if metadata:
        response.dynamic_metadata.update({"gw": metadata})
    return response


LONG = b"x" * (LONG_BYTES + 1)


def read(data: Body) -> pb.ProcessingResponse:
    return pb.ProcessingResponse.FromString(bytes(data))


@given(HEADERS, REMOVED, BODIES, METADATA)
def test_a_request_that_is_forwarded(
    headers: list[tuple[str, str]], remove: list[str], body: bytes, metadata: dict[str, Any]
) -> None:
    common = pb.CommonResponse(
        status=pb.CommonResponse.CONTINUE_AND_REPLACE,
        header_mutation=mutation(headers, remove),
        body_mutation=pb.BodyMutation(body=body),
        clear_route_cache=True,
    )
    made = frames.replace(headers=headers, remove=remove, body=body, metadata=metadata)
    assert read(made) == reply(metadata, request_headers=pb.HeadersResponse(response=common))
    pieces = Pieces([body, LONG, memoryview(body)])
    common.body_mutation.body = bytes(pieces)
    made = frames.replace(headers=headers, remove=remove, body=pieces, metadata=metadata)
    assert isinstance(made, Pieces)
    assert any(part is LONG for part in made.parts), "it was copied"
    assert len(made) == len(bytes(made))
    assert read(made) == reply(metadata, request_headers=pb.HeadersResponse(response=common))


@given(st.integers(200, 599), HEADERS, BODIES, METADATA, NAMES)
def test_an_answer_of_our_own(
    status: int, headers: list[tuple[str, str]], body: bytes, metadata: dict[str, Any], details: str
) -> None:
    made = frames.immediate(status=status, headers=headers, body=body, metadata=metadata, details=details)
    answer = pb.ImmediateResponse(
        status=pb.HttpStatus(code=status), headers=mutation(headers, []), body=body, details=details
    )
    assert read(made) == reply(metadata, immediate_response=answer)


@given(HEADERS, REMOVED, METADATA)
def test_the_headers_of_an_answer(headers: list[tuple[str, str]], remove: list[str], metadata: dict[str, Any]) -> None:
    made = frames.answer_headers(headers=headers, remove=remove, metadata=metadata)
    common = pb.CommonResponse(header_mutation=mutation(headers, remove))
    assert read(made) == reply(metadata, response_headers=pb.HeadersResponse(response=common))


@given(st.one_of(st.none(), BODIES), HEADERS, METADATA)
def test_the_body_of_an_answer(body: bytes | None, headers: list[tuple[str, str]], metadata: dict[str, Any]) -> None:
    common = pb.CommonResponse(header_mutation=mutation(headers, []) if headers else None)
    if body:
        common.body_mutation.body = body
    elif body is not None:
        common.body_mutation.clear_body = True
    made = frames.answer_body(body, headers=headers, metadata=metadata)
    assert read(made) == reply(metadata, response_body=pb.BodyResponse(response=common))


def test_leaving_things_as_they_are() -> None:
    assert [read(frames.nothing(kind)).WhichOneof("response") for kind in Kind] == [
        *("request_headers", "request_body", "response_headers", "response_body", "response_trailers")
    ]


@given(st.sampled_from(["request_body", "response_body"]), BODIES, st.booleans(), st.sampled_from(BESIDE))
@example("request_body", b"x" * 65_536, True, b"")
@example("response_body", b"x" * 65_537, False, b"")
def test_a_body_is_read_as_the_stubs_read_it(kind: str, body: bytes, end: bool, beside: bytes) -> None:
    data = pb.ProcessingRequest(**{kind: pb.HttpBody(body=body, end_of_stream=end)}).SerializeToString()
    assert frames.parse(data + beside) == Event(Kind(kind), body=body, end=end)


CUTS = st.lists(st.integers(0, 200) | st.integers(-200, -1), max_size=6)


def cut(data: bytes, places: list[int]) -> Pieces:
    at = sorted({place % len(data) for place in places}) if data else []
    return Pieces([memoryview(data)[begin:end] for begin, end in pairwise([0, *at, len(data)])])


@given(st.sampled_from(["request_body", "response_body"]), BODIES, st.booleans(), st.sampled_from(BESIDE), CUTS)
def test_a_long_body_in_pieces_is_read_as_one_and_not_copied(
    kind: str, body: bytes, end: bool, beside: bytes, places: list[int]
) -> None:
    body = body + LONG + body
    data = pb.ProcessingRequest(**{kind: pb.HttpBody(body=body, end_of_stream=end)}).SerializeToString() + beside
    event = frames.parse(cut(data, places))
    assert (event.kind, joined([event.body]), event.end) == (Kind(kind), body, end)
    assert isinstance(event.body, Pieces)
    assert all(isinstance(part, memoryview) and part.obj is data for part in event.body.parts)


@given(st.binary(max_size=60), st.binary(max_size=9), CUTS, st.booleans())
def test_whatever_comes_in_pieces_is_read_as_one(data: bytes, tail: bytes, places: list[int], long: bool) -> None:
    if long:  # the beginning of a body that may not be there whole
        data = protowire.head(4, 80_000) + protowire.head(1, 79_990) + data + LONG + tail
    events = []
    for sent in (data, cut(data, places)):
        try:
            event = frames.parse(sent)
        except ValueError as error:
            events.append(str(error))
        else:
            events.append((event.kind, event.headers, joined([event.body]), event.end))
    assert events[0] == events[1]


def test_a_body_beside_other_fields_is_read_too() -> None:
    data = pb.ProcessingRequest(request_body=pb.HttpBody(body=b"abc")).SerializeToString()
    newer = protowire.field(11, protowire.number(1, 2))  # protocol_config, which our subset does not have
    assert frames.parse(data + newer) == Event(Kind.REQUEST_BODY, body=b"abc")
    inside = protowire.field(4, protowire.field(1, b"abc") + protowire.number(2, 1) + protowire.number(3, 1))
    assert frames.parse(inside) == Event(Kind.REQUEST_BODY, body=b"abc", end=True)


def header_part(headers: list[tuple[str, str]], *, end: bool) -> pb.HttpHeaders:
    items = [pb.HeaderValue(key=name, raw_value=value.encode("utf-8", "surrogateescape")) for name, value in headers]
    return pb.HttpHeaders(headers=pb.HeaderMap(headers=items), end_of_stream=end)


def as_the_stubs_read_it(data: bytes) -> Event | None:
    """None: it is no message."""
    try:
        message = pb.ProcessingRequest.FromString(data)
    except Exception:
        return None
    which = message.WhichOneof("request")
    if which is None or which.endswith("trailers"):
        return Event(Kind.TRAILERS, end=True) if which else None
    part = getattr(message, which)
    if which.endswith("body"):
        return Event(Kind(which), body=part.body, end=part.end_of_stream)
    headers: dict[str, list[str]] = {}
    for item in part.headers.headers:
        value = item.raw_value.decode("utf-8", "surrogateescape") or item.value
        headers.setdefault(item.key, []).append(value)
    joined = {name: ",".join(values) for name, values in headers.items()}
    return Event(Kind(which), headers=joined, end=part.end_of_stream)


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A message like Envoy's in which some bytes are others, or one is too many."""
    part = header_part(draw(HEADERS), end=draw(st.booleans()))
    data = bytearray(pb.ProcessingRequest(request_headers=part).SerializeToString() + draw(st.sampled_from(BESIDE)))
    for at in draw(st.lists(st.integers(0, len(data) - 1), max_size=3)):
        data[at] = draw(st.sampled_from([data[at] - 1 & 0xFF, data[at] + 1 & 0xFF, 0x0A, 0x12, 0x1A, 0x80, 0xFF]))
    if draw(st.booleans()):
        data.insert(draw(st.integers(0, len(data))), draw(st.integers(0, 255)))
    return bytes(data)


@given(st.one_of(st.binary(max_size=60), spoilt()))
def test_any_bytes_are_read_as_the_stubs_read_them_or_refused(data: bytes) -> None:
    expected = as_the_stubs_read_it(data)
    if expected is None:
        with pytest.raises(ValueError, match="ProcessingRequest"):
            frames.parse(data)
    else:
        assert frames.parse(data) == expected


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6), st.booleans(), st.sampled_from(BESIDE))
@example([("x" * 130, "y" * 20_000), ("x-empty", ""), ("x-twice", "1"), ("x-twice", "2")], True, b"")
def test_headers_are_read_whole(headers: list[tuple[str, str]], end: bool, beside: bytes) -> None:
    data = pb.ProcessingRequest(response_headers=header_part(headers, end=end)).SerializeToString() + beside
    joined: dict[str, str] = {}
    for name, value in headers:
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    assert frames.parse(data) == Event(Kind.RESPONSE_HEADERS, headers=joined, end=end)


@given(st.integers(0, 2**40))
def test_a_number_comes_back(value: int) -> None:
    encoded = protowire.varint(value)
    assert protowire.take_varint(b"\x00" + encoded + b"\xff", 1) == (value, 1 + len(encoded))
