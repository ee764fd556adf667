"""An answer of 200 that was none: the attempt's verdict follows its request's, whichever of the two is told first."""

from typing import Any

import pytest

from extproc.budget.estimate import OutputEstimates
from extproc.records import Outcome, Usage
from extproc.settle.estimate import OutputFromBytes
from extproc.settle.intake import Intake
from extproc.settle.recent import Recent
from extproc.settle.rows import AttemptRow, AuditRow
from extproc.telemetry.content import Content
from extproc.wire import LOG_ATTEMPT, LOG_REQUEST, MODEL_ROUTE_PREFIX
from tests.settle.builders import decision, entry, outcome, parsed


class Heard:
    """The sink, and who is told of attempts: both must have heard the same."""

    def __init__(self) -> None:
        self.written: list[AttemptRow] = []
        self.told: list[AttemptRow] = []
        self.intake = Intake(self, OutputFromBytes(), OutputEstimates(), Recent(), attempted=self.told.append)

    def add(self, row: AuditRow | AttemptRow | Content) -> None:
        if isinstance(row, AttemptRow):
            self.written.append(row)

    def count(self, name: str) -> None:
        raise AssertionError(name)

    def attempt(self, provider: str = "openai", model: str = "gpt", **given: Any) -> None:
        made = entry(cluster=f"provider-{provider}", route=f"{MODEL_ROUTE_PREFIX}{model}", **given)
        self.intake.take(LOG_ATTEMPT, parsed(made))

    def request(self, answered: Outcome | None, **given: Any) -> None:
        self.intake.take(LOG_REQUEST, parsed(entry(decision=decision(), outcome=answered, **given)))

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        assert self.written == self.told
        return [(row.provider, row.verdict) for row in self.told]


@pytest.fixture
def heard() -> Heard:
    return Heard()


FAILED = outcome(error_code="provider_error", complete=False, finish_reason=None, usage=None)
# What Envoy passed on alone: nobody has read it.
NATIVE = Outcome(native=True)
SAID: dict[str, tuple[Outcome | None, dict[str, Any], str]] = {
    "it went well": (outcome(), {}, "ok"),
    "an error event": (FAILED, {}, "error"),
    "an unreadable body": (FAILED, {"status": 502}, "error"),
    "a rate limit's event": (outcome(error_code="rate_limit_exceeded", complete=False), {}, "rate_limited"),
    "the client's own mistake": (outcome(error_code="invalid_request_error", complete=False), {}, "ok"),
    "the model said what is no answer": (outcome(error_code="no_usable_answer", complete=False), {}, "ok"),
    "the worker was killed": (None, {}, "ok"),
    "native: no end": (NATIVE, {}, "error"),
    "native: no usage, but an end": (NATIVE, {"usage": {"finish_reason": "stop"}}, "ok"),
    "native: the client left": (NATIVE, {"flags": ("downstream_connection_termination",)}, "ok"),
}


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("request_first", [True, False])
def test_the_verdict_is_the_readers(heard: Heard, said: str, request_first: bool) -> None:
    answered, given, verdict = SAID[said]
    if request_first:
        heard.request(answered, **given)
    heard.attempt()
    if not request_first:
        assert heard.verdicts == []
        heard.request(answered, **given)
    assert heard.verdicts == [("openai", verdict)]


def test_it_is_the_verdict_of_the_attempt_that_answered(heard: Heard) -> None:
    heard.attempt(status=503)
    heard.attempt("anthropic", "claude")
    heard.request(outcome(error_code="provider_error", attempt=2, attempts=2, complete=False), attempts=2)
    heard.attempt("google", "gemini")  # it lost the race
    assert heard.verdicts == [("openai", "error"), ("anthropic", "error"), ("google", "ok")]


def test_what_is_no_answer_waits_for_nobody(heard: Heard) -> None:
    heard.attempt(status=500)
    heard.attempt(status=429)
    heard.attempt(flags=("upstream_remote_reset",))
    assert [verdict for _, verdict in heard.verdicts] == ["error", "rate_limited", "error"]


def test_an_answer_whose_request_is_never_told_of_waits_two_turns(heard: Heard) -> None:
    heard.attempt()
    heard.intake.verdicts.turn()
    assert heard.verdicts == []
    heard.intake.verdicts.turn()
    assert heard.verdicts == [("openai", "ok")]
    heard.request(FAILED)
    assert heard.verdicts == [("openai", "ok")]


def test_at_the_end_all_are_written(heard: Heard) -> None:
    heard.attempt()
    heard.intake.verdicts.close()
    assert heard.verdicts == [("openai", "ok")]


def test_usage_before_an_error_event_does_not_excuse_it(heard: Heard) -> None:
    heard.request(outcome(error_code="provider_error", complete=False, usage=Usage(input_tokens=9)))
    heard.attempt()
    assert heard.verdicts == [("openai", "error")]
