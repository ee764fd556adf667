"""Answers that pass by Envoy alone: nothing remains to be done with them, so the worker has ended its exchange.

In: a decided request. Out: notes for envoy/native_answer.lua, which tells the client what the worker would have told.
An answer that is not the one expected (an error, compressed, of another type, without usage) that filter sends here,
and the client gets what it becomes here: one unary call, `METHOD`. Both sides write messages as HTTP/1 does: a first
line (the request's id; the Outcome as JSON), lines of headers with `:status` among them, an empty line, the body.
"""

import logging
import time

import msgspec

from extproc import answer
from extproc.adapters.emit import ClientStream
from extproc.adapters.failures import Problem, classify, retry_after_s
from extproc.answer import Timing
from extproc.body.encoding import Plain
from extproc.body.pieces import Body
from extproc.errors import GatewayError, ProviderError, ProviderTimeout
from extproc.exchange.answering import told
from extproc.exchange.frames import HeaderList
from extproc.exchange.live import Live
from extproc.exchange.replies import EVENTS, JSON, answer_headers, as_json, attempt_headers, error_headers, refusal
from extproc.plan import Attempt, Plan
from extproc.pricing import rates
from extproc.records import Outcome
from extproc.telemetry.trace_context import ids
from extproc.transport.session import Service
from extproc.wire import (
    H_ATTEMPTS,
    H_NO_PROVIDERS,
    H_TARGET,
    LINE_END,
    P_FIELDS,
    P_ID,
    P_RATES,
    P_SIGN,
    P_TARGET,
    P_TOLD,
    P_WORKER,
    worker_cluster,
)

log = logging.getLogger(__name__)

METHOD = "/gateway.Passing/Answer"
_MAX_BYTES = 80 * 1024 * 1024


def notes_of_first(plan: Plan, attempt: Attempt, worker: int, token: str) -> dict[str, str]:
    """What Envoy must know of an answer to the first attempt: `wire.M_PASSING`."""
    return {
        P_ID: plan.decision.request_id,
        P_WORKER: worker_cluster(worker),
        P_SIGN: token,
        P_TARGET: str(attempt.index),
        P_TOLD: lines([*answer_headers(plan), *attempt_headers(plan, attempt)]),
        **({P_FIELDS: _fields(plan), P_RATES: rates(attempt.target.price)} if plan.fields else {}),
    }


def note_of_next(plan: Plan, attempt: Attempt, token: str) -> str:
    """What it must know of one to a later attempt: `wire.H_TOLD`."""
    told, unused = lines(attempt_headers(plan, attempt)), ",".join(map(str, plan.unused(attempt)))
    return f"{token} {attempt.index} {unused} {rates(attempt.target.price) if plan.fields else ''}{LINE_END}{told}"


def _fields(plan: Plan) -> str:
    """What the gateway's fields say of a request, whoever answers: milliseconds of our own and since the epoch, and for
    what model it asked."""
    decision = plan.decision
    asked = msgspec.json.encode(decision.model_requested).decode()
    return f"{decision.decided_us / 1000:.3f} {decision.received_at * 1000:.3f} {asked}"


def lines(headers: HeaderList, end: str = LINE_END) -> str:
    """Headers as text."""
    return "".join([f"{name}: {value}{end}" for name, value in headers])


def service(live: Live) -> Service:
    """Serves METHOD."""
    return Service(lambda: _Session(live), _MAX_BYTES)


class _Session:
    """One unexpected answer."""

    done = False

    def __init__(self, live: Live) -> None:
        self._live = live

    def receive(self, message: Body) -> bytes:
        request_id, headers, body = _read(bytes(message))
        try:
            plan = self._live.find(request_id)
        except GatewayError:
            return _forgotten(headers)
        index = headers.get(H_TARGET, "")
        attempt = plan.answered_by(int(index) if index.isdigit() else None)
        try:
            return self._answer(plan, attempt, headers, body)
        except Exception as error:
            if not isinstance(error, GatewayError):
                log.error("answer not read", extra=ids(request_id, plan.decision.traceparent), exc_info=error)
                error = GatewayError("The gateway failed to handle this request.")
            outcome = refusal(error, plan, attempt)
            if attempt.answered and H_NO_PROVIDERS in headers:  # torn before it was whole: its provider bills it
                outcome = msgspec.structs.replace(outcome, unread_bytes=0)
            return _message(outcome, [*_headers(error), *told(plan, attempt)], error.body())

    def _answer(self, plan: Plan, attempt: Attempt, headers: dict[str, str], body: bytes) -> bytes:
        """An answer after all. Raises GatewayError."""
        kind = JSON
        if headers.get(":status") == "200" and plan.chat.stream and answer.may_be_stream(headers):
            kind = EVENTS
            plain = Plain(headers.get("content-encoding", ""))
            if plain.error is not None:
                raise plain.error
            if plain.compressed:  # this one comes at its end; the next ones are ours to read as they come
                self._live.compress.add(attempt.target.provider)
            stream = ClientStream(attempt.adapter, include_usage=plan.chat.include_usage)
            out = stream.feed(plain.feed(body))
            rest, final = stream.finish(plain.error)
            body = out + rest
            outcome = answer.outcome(plan, attempt, final)
        else:
            read = answer.whole(plan, attempt, headers, body, _timing(plan), fields=plan.fields)
            body, outcome = read.body, read.outcome
        return _message(outcome, [(":status", "200"), kind, *told(plan, attempt)], body)

    def finish(self) -> None:
        """Everything was said in the one message."""

    def close(self) -> None:
        """Nothing is held."""


def _timing(plan: Plan) -> Timing:
    decision = plan.decision
    total_us = round((time.time() - decision.received_at) * 1_000_000)
    return Timing(decision.decided_us, max(decision.decided_us, total_us))  # a clock may be set back


def _forgotten(headers: dict[str, str]) -> bytes:
    """What comes to a request that nobody knows any more, for its worker died or it waited too long: by its status."""
    status, attempts, index = (headers.get(name, "") for name in (":status", H_ATTEMPTS, H_TARGET))
    error: GatewayError = ProviderError("The provider's answer could not be read.")
    if status == "504":
        error = ProviderTimeout("The provider did not answer in time.")
    elif status >= "400":
        error = classify("The provider", int(status), Problem(), retry_after_s(headers, time.time()))
    outcome = Outcome(
        attempt=int(index) if index.isdigit() else 1,
        attempts=int(attempts) if attempts.isdigit() else 1,
        error_code=error.client_code,
        complete=True,
    )
    return _message(outcome, _headers(error), error.body())


def _headers(error: GatewayError) -> list[tuple[str, str]]:
    return [(":status", str(error.http_status)), *error_headers(error), *error.headers]


def _message(outcome: Outcome, headers: HeaderList, body: bytes) -> bytes:
    return f"{as_json(outcome)}\n{lines(headers, end=chr(10))}\n".encode("utf-8", "surrogateescape") + body


def _read(message: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = message.partition(b"\n\n")
    first, *rest = head.decode("utf-8", "surrogateescape").split("\n")
    headers: dict[str, str] = {}
    for line in rest:
        name, _, value = line.partition(": ")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return first, headers, body
