"""Messages as we write and read them, against the generated stubs."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import example, given
from hypothesis import strategies as st

from extproc import frames, protowire
from extproc.frames import Event, Kind
from protos.gen import extproc_pb2 as pb

# What Envoy can have in a header: any bytes, which reach us with those that are no UTF-8 escaped.
VALUES = st.binary(max_size=200).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
NAMES = st.text("abcdefghijklmnopqrstuvwxyz-:", min_size=1, max_size=20)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=5)
REMOVED = st.lists(NAMES, max_size=5)
BODIES = st.one_of(st.binary(max_size=300), st.integers(0, 40_000).map(lambda size: b"x" * size))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
METADATA = st.dictionaries(NAMES, st.one_of(st.booleans(), TEXTS), max_size=3)


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


def read(data: bytes) -> pb.ProcessingResponse:
    return pb.ProcessingResponse.FromString(data)


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


@given(st.sampled_from(["request_body", "response_body"]), BODIES, st.booleans())
@example("request_body", b"x" * 65_536, True)
@example("response_body", b"x" * 65_537, False)
def test_a_body_is_read_as_the_stubs_read_it(kind: str, body: bytes, end: bool) -> None:
    data = pb.ProcessingRequest(**{kind: pb.HttpBody(body=body, end_of_stream=end)}).SerializeToString()
    assert frames.parse(data) == Event(Kind(kind), body=body, end=end)


def test_a_body_beside_other_fields_is_read_too() -> None:
    data = pb.ProcessingRequest(request_body=pb.HttpBody(body=b"abc")).SerializeToString()
    newer = protowire.field(11, protowire.number(1, 2))  # protocol_config, which our subset does not have
    assert frames.parse(data + newer) == Event(Kind.REQUEST_BODY, body=b"abc")
    inside = protowire.field(4, protowire.field(1, b"abc") + protowire.number(2, 1) + protowire.number(3, 1))
    assert frames.parse(inside) == Event(Kind.REQUEST_BODY, body=b"abc", end=True)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_the_stubs_read_them_or_refused(data: bytes) -> None:
    try:
        message = pb.ProcessingRequest.FromString(data)
    except Exception:
        message = pb.ProcessingRequest()
    which = message.WhichOneof("request")
    if which is None:
        with pytest.raises(ValueError, match="ProcessingRequest"):
            frames.parse(data)
    elif which.endswith("body"):
        part = getattr(message, which)
        assert frames.parse(data) == Event(Kind(which), body=part.body, end=part.end_of_stream)
    else:
        assert frames.parse(data).kind.value in (which, "trailers"), MessageToDict(message)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6, unique_by=lambda header: header[0]), st.booleans())
def test_headers_are_read_whole(headers: list[tuple[str, str]], end: bool) -> None:
    items = [pb.HeaderValue(key=name, raw_value=value.encode("utf-8", "surrogateescape")) for name, value in headers]
    part = pb.HttpHeaders(headers=pb.HeaderMap(headers=items), end_of_stream=end)
    data = pb.ProcessingRequest(response_headers=part).SerializeToString()
    assert frames.parse(data) == Event(Kind.RESPONSE_HEADERS, headers=dict(headers), end=end)


@given(st.integers(0, 2**40))
def test_a_number_comes_back(value: int) -> None:
    encoded = protowire.varint(value)
    assert protowire.take_varint(b"\x00" + encoded + b"\xff", 1) == (value, 1 + len(encoded))
