"""`traceparent`, and ids that follow from a request's id."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.telemetry.trace_context import context, span_id

REQUEST = "0f8fad5b-d9cb-469f-a165-70867728950e"
OWN = REQUEST.replace("-", "")
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_the_clients_trace_is_continued() -> None:
    place = context(REQUEST, f"00-{TRACE}-{PARENT}-01")
    assert (place.trace_id, place.parent_span_id, place.sampled) == (TRACE, PARENT, True)
    assert not context(REQUEST, f"00-{TRACE}-{PARENT}-00").sampled


def test_a_later_version_may_say_more() -> None:
    assert context(REQUEST, f"cc-{TRACE}-{PARENT}-01-what-comes-later").trace_id == TRACE


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}",
    ],
)
def test_what_names_no_trace_begins_one(header: str | None) -> None:
    place = context(REQUEST, header)
    assert (place.trace_id, place.parent_span_id, place.sampled) == (OWN, None, True)


@given(st.text(), st.text())
def test_ids_are_always_ids(request_id: str, header: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", context(request_id, header).trace_id)
    assert re.fullmatch(r"[0-9a-f]{16}", span_id(request_id, "request"))
