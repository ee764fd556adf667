"""Lines of Envoy's own request log -> the same entries the access log service brings.

In: one JSON line per authenticated request, in the format that LINE describes and control/render writes into Envoy's
configuration. Out: `HTTPAccessLogEntry` messages, so that there is one way to settle. Pure. Called by the follower.
"""

import re
from typing import Any, Final

import msgspec

from extproc.telemetry.trace_context import ids
from extproc.wire import H_REQUEST_ID, M_DECISION, M_OUTCOME, M_TEAM, METADATA, USAGE_METADATA
from protos.gen import accesslog_pb2 as pb

LINE: Final[dict[str, str]] = {
    "id": f"%REQ({H_REQUEST_ID})%",
    "start": "%START_TIME(%s.%6f)%",
    "team": f"%DYNAMIC_METADATA({METADATA}:{M_TEAM})%",
    "decision": f"%DYNAMIC_METADATA({METADATA}:{M_DECISION})%",
    "outcome": f"%DYNAMIC_METADATA({METADATA}:{M_OUTCOME})%",
    "usage": f"%DYNAMIC_METADATA({USAGE_METADATA})%",
    "code": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS_LONG%",
    "bytes": "%BYTES_SENT%",
    "received": "%UPSTREAM_WIRE_BYTES_RECEIVED%",
    "duration_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
    "first_byte_us": "%COMMON_DURATION(DS_RX_BEG:DS_TX_BEG:us)%",
    "duration_ms": "%DURATION%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "cluster": "%UPSTREAM_CLUSTER%",
}

_ID: Final = re.compile(rb'"id"\s*:\s*"([^"]+)"')
_TRACEPARENT: Final = re.compile(rb'\\"traceparent\\":\\"([^"\\]+)')  # in the decision, which is JSON in JSON
_CAPITAL: Final = re.compile(r"(?<!^)(?=[A-Z])")
_FLAGS: Final = frozenset(pb.ResponseFlags.DESCRIPTOR.fields_by_name)


class _Line(msgspec.Struct):
    id: str
    start: str
    team: str | None = None
    decision: str | None = None
    outcome: str | None = None
    usage: dict[str, float | str] | None = None
    code: int | None = None
    details: str | None = None
    flags: str | None = None
    bytes: int | None = None
    received: int | None = None
    duration_us: int | None = None
    first_byte_us: int | None = None
    duration_ms: int | None = None
    attempts: int | None = None
    cluster: str | None = None


def request_id(line: bytes) -> str | None:
    """The id in a line, found without reading all of it; None if it has none."""
    match = _ID.search(line)
    return match[1].decode("latin-1") if match else None


def whose(line: bytes) -> dict[str, str]:
    """What a log line about a line that cannot be read says of its request."""
    match = _TRACEPARENT.search(line)
    return ids(request_id(line) or "", match[1].decode("latin-1") if match else None)


def entry(line: bytes) -> pb.HTTPAccessLogEntry:
    """The entry of one line. Raises msgspec.DecodeError or ValueError for a line that is none."""
    read = msgspec.json.decode(line, type=_Line, strict=False)
    result = pb.HTTPAccessLogEntry()
    common = result.common_properties
    seconds, _, fraction = read.start.partition(".")
    common.start_time.seconds, common.start_time.nanos = int(seconds), int(fraction.ljust(9, "0")[:9] or 0)
    _duration(common.duration, read.duration_us if read.duration_us is not None else 1000 * (read.duration_ms or 0))
    if read.first_byte_us is not None:
        _duration(common.time_to_first_downstream_tx_byte, read.first_byte_us)
    common.upstream_request_attempt_count = read.attempts or 0
    common.upstream_cluster = read.cluster or ""
    common.upstream_wire_bytes_received = read.received or 0
    common.stream_id = result.request.request_id = read.id
    for flag in (read.flags or "").split(","):
        name = _CAPITAL.sub("_", flag).lower()
        if name in _FLAGS:
            setattr(common.response_flags, name, True)
    metadata = common.metadata.filter_metadata
    for key, value in ((M_TEAM, read.team), (M_DECISION, read.decision), (M_OUTCOME, read.outcome)):
        if value is not None:
            metadata[METADATA].fields[key].string_value = value
    for key, used in (read.usage or {}).items():
        field = metadata[USAGE_METADATA].fields[key]
        if isinstance(used, str):
            field.string_value = used
        else:
            field.number_value = used
    result.response.response_code.value = read.code or 0
    result.response.response_body_bytes = read.bytes or 0
    result.response.response_code_details = read.details or ""
    return result


def _duration(into: Any, microseconds: int) -> None:
    into.seconds, rest = divmod(max(0, microseconds), 1_000_000)
    into.nanos = rest * 1000
