"""Access log entry -> what of a native answer is to be kept. Pure.

In: the entry of an answer that Envoy carried alone, with the worker's ticket and the answer's bytes in its dynamic
metadata, and its audit row. Out: a recording, or the ticket alone: nothing came of it that could be kept. Called by the
intake; an entry that was read from Envoy's file has neither.
"""

import base64
import binascii
from typing import Literal

import msgspec

from extproc.cache.tape import Recording, Taker
from extproc.cache.ticket import Ticket
from extproc.records import Decision, Outcome, Usage
from extproc.settle.rows import AuditRow
from extproc.telemetry.content import MOST_ANSWER_BYTES, Content, content_of
from extproc.wire import ANSWER_METADATA, M_ANSWER, M_DECISION, M_INPUT, M_PASSING, M_RECORD, M_SSE, METADATA, P_FIELDS
from protos.gen import accesslog_pb2 as pb


def record(entry: pb.HTTPAccessLogEntry, row: AuditRow, taker: Taker) -> None:
    """Hand what there is to keep to `taker`, of an entry with a ticket. Raises msgspec.DecodeError for metadata that is
    not ours."""
    metadata = entry.common_properties.metadata.filter_metadata
    ours = metadata[METADATA].fields
    ticket = msgspec.json.decode(ours[M_RECORD].string_value, type=Ticket)
    body = _body(metadata[ANSWER_METADATA].fields[M_SSE].string_value) if ANSWER_METADATA in metadata else b""
    stood_in = row.model_used != row.model_routed  # for one that was not even asked: Envoy had put it aside
    if row.status != "success" or stood_in or row.estimated or not body:
        taker.give_up(ticket)
        return
    decision = msgspec.json.decode(ours[M_DECISION].string_value, type=Decision)
    usage = Usage(
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cached_tokens=row.cached_tokens,
        reasoning_tokens=row.reasoning_tokens,
    )
    outcome = Outcome(usage=usage, complete=True, native=True)
    kind: Literal["whole", "stream"] = "stream" if row.stream else "whole"
    fields = not row.native and P_FIELDS in ours[M_PASSING].struct_value.fields  # a worker put them in
    target = decision.targets[0]
    taker.keep(Recording(ticket=ticket, kind=kind, body=body, target=target, outcome=outcome, gateway_fields=fields))


def told(entry: pb.HTTPAccessLogEntry, row: AuditRow) -> Content:
    """What was said in a request, of an entry whose worker has told it; without secrets."""
    metadata = entry.common_properties.metadata.filter_metadata
    ours = metadata[METADATA].fields
    if M_ANSWER in ours:
        answer = ours[M_ANSWER].string_value.encode()
    else:
        answer = _body(metadata[ANSWER_METADATA].fields[M_SSE].string_value) if ANSWER_METADATA in metadata else b""
    if len(answer) > MOST_ANSWER_BYTES:
        answer = b""
    return content_of(row.request_id, ours[M_INPUT].string_value, answer, stream=row.stream)


def _body(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
