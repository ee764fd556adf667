"""Rows -> spans."""

from extproc.telemetry.spans import Told, trace
from tests.settle.builders import STARTED_S, attempt, audit

FORMATS = {"openai": "openai", "gemini": "google"}
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_whole_trace() -> None:
    row = audit(traceparent=PARENT, steps_us='{"read":100,"route":20,"reserve":900}', provider_used="gemini")
    tries = [
        attempt(verdict="error", status=503, started_at=STARTED_S, at=STARTED_S + 0.2),
        attempt(provider="gemini", started_at=STARTED_S + 0.2),
    ]
    spans = trace(Told(row, tries, settled_at=STARTED_S + 1.0), FORMATS)
    by_name = {span.name: span for span in spans}
    assert list(by_name) == [
        "chat auto",
        "decide",
        "read",
        "route",
        "reserve",
        "chat openai",
        "chat gemini",
        "settle",
    ]
    root = by_name["chat auto"]
    assert root.parent_span_id == "00f067aa0ba902b7"
    assert {span.trace_id for span in spans} == {"4bf92f3577b34da6a3ce929d0e0e4736"}
    assert len({span.span_id for span in spans}) == len(spans)
    assert by_name["reserve"].parent_span_id == by_name["decide"].span_id
    assert by_name["chat openai"].parent_span_id == root.span_id
    assert root.attributes["gen_ai.provider.name"] == "gcp.gemini"
    assert root.attributes["gen_ai.usage.input_tokens"] == 100
    assert root.error is None
    assert by_name["chat openai"].error == "error"
    assert by_name["chat openai"].attributes["error.type"] == "503"
    assert "error.type" not in by_name["chat gemini"].attributes
    assert by_name["chat gemini"].attributes["http.request.resend_count"] == 1


def test_steps_follow_one_another_from_the_arrival_on() -> None:
    row = audit(steps_us='{"read":100,"reserve":900}')
    spans = {span.name: span for span in trace(Told(row), FORMATS)}
    arrival_ns = round(STARTED_S * 1e9)
    assert (spans["read"].start_ns, spans["read"].end_ns) == (arrival_ns, arrival_ns + 100_000)
    assert (spans["reserve"].start_ns, spans["reserve"].end_ns) == (arrival_ns + 100_000, arrival_ns + 1_000_000)
    assert spans["decide"].end_ns == arrival_ns + 1_500_000


def test_a_refused_request_is_no_error_of_the_servers() -> None:
    row = audit(status="refused", error_code="budget_exceeded", http_status=429, attempts=0, provider_used=None)
    (root, *_) = trace(Told(row), FORMATS)
    assert root.error is None
    assert root.attributes["error.type"] == "budget_exceeded"


def test_a_failed_one_is() -> None:
    (root, *_) = trace(Told(audit(status="failed", error_code="provider_error", http_status=502)), FORMATS)
    assert root.error == "provider_error"


def test_a_trace_that_is_not_recorded_stays_so() -> None:
    assert trace(Told(audit(traceparent=PARENT[:-1] + "0")), FORMATS) == []
