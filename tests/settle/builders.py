"""Access log entries as Envoy makes them, of Envoy's own types (an independent oracle for our protobuf subset)."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from envoy_data_plane.envoy.config.core.v3 import Metadata
from envoy_data_plane.envoy.data.accesslog.v3 import (
    AccessLogCommon,
    HttpAccessLogEntry,
    HttpRequestProperties,
    HttpResponseProperties,
    ResponseFlags,
)
from envoy_data_plane.envoy.service.accesslog.v3 import (
    StreamAccessLogsMessage,
    StreamAccessLogsMessageHttpAccessLogEntries,
    StreamAccessLogsMessageIdentifier,
)
from envoy_data_plane.google.protobuf import Struct

from extproc.records import Decision, Outcome, Price, Target, Usage
from extproc.settle.rows import AttemptRow, AuditRow
from protos.gen import accesslog_pb2 as pb

STARTED_S = 1_790_000_000.0
TEAM = "team-search"
# 1 USD and 2 USD per 1M tokens: 1,000 and 2,000 nano-USD a token.
PRICE = Price(input=1_000_000, output=2_000_000)


def target(model: str = "gpt", provider: str = "openai", price: Price = PRICE) -> Target:
    return Target(model=model, upstream_name=model, provider=provider, format="openai", price=price)


TARGETS = (target(), target("claude", "anthropic"), target("gemini", "google", Price()))


def decision(**changes: Any) -> Decision:
    given = {
        "request_id": "r1",
        "team_id": TEAM,
        "model_requested": "auto",
        "model_routed": "gpt",
        "provider": "openai",
        "routing_decision": "simple_query",
        "prompt_hash": "ab" * 32,
        "input_tokens": 120,
        "estimated_output_tokens": 300,
        "priority": "high",
        "received_at": STARTED_S + 0.001,
        "stream": True,
        "decided_us": 1_500,
        "targets": TARGETS,
    }
    return Decision(**(given | changes))


def outcome(**changes: Any) -> Outcome:
    """Of an answer that went well, read by the worker."""
    given = {"usage": Usage(input_tokens=100, output_tokens=50), "finish_reason": "stop", "complete": True}
    return Outcome(**(given | changes))


def entry(
    *,
    request_id: str = "r1",
    team: str | None = TEAM,
    decision: Decision | str | None = None,
    outcome: Outcome | str | None = None,
    usage: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    status: int = 200,
    flags: tuple[str, ...] = (),
    body_bytes: int = 5_000,
    received_bytes: int = 0,
    attempts: int = 1,
    cluster: str = "chain-openai-0",
    details: str = "via_upstream",
    route: str = "",
    headers: dict[str, str] | None = None,
    **times_ms: float | None,
) -> bytes:
    """One entry, serialised. `times_ms`: durations of AccessLogCommon, None to leave one out."""
    ours: dict[str, Any] = {"team": team} if team else {}
    for name, record in (("decision", decision), ("outcome", outcome)):
        if record is not None:
            ours[name] = record if isinstance(record, str) else msgspec.json.encode(record).decode()
    spaces = {"gw": ours | (metadata or {}), "gw.usage": usage or {}}
    times = {
        "duration": 900.0,
        "time_to_first_upstream_tx_byte": 10.0,
        "time_to_first_upstream_rx_byte": 210.0,
        "time_to_last_upstream_rx_byte": 890.0,
        "time_to_first_downstream_tx_byte": 212.0,
    } | times_ms
    return bytes(
        HttpAccessLogEntry(
            common_properties=AccessLogCommon(
                start_time=datetime.fromtimestamp(STARTED_S, UTC),
                upstream_cluster=cluster,
                response_flags=ResponseFlags(**dict.fromkeys(flags, True)) if flags else None,
                metadata=Metadata(
                    filter_metadata={name: Struct.from_dict(fields) for name, fields in spaces.items() if fields}
                ),
                upstream_request_attempt_count=attempts,
                upstream_wire_bytes_received=received_bytes,
                route_name=route,
                stream_id=request_id,
                **{name: timedelta(milliseconds=value) for name, value in times.items() if value is not None},
            ),
            request=HttpRequestProperties(request_id=request_id, path="/v1/chat/completions"),
            response=HttpResponseProperties(
                response_code=status or None,
                response_body_bytes=body_bytes,
                response_code_details=details,
                response_headers=headers or {},
            ),
        )
    )


def parsed(data: bytes) -> pb.HTTPAccessLogEntry:
    return pb.HTTPAccessLogEntry.FromString(data)


def message(*entries: bytes, log_name: str | None = None) -> bytes:
    """One message of a log stream; the log is named in a stream's first message only."""
    return bytes(
        StreamAccessLogsMessage(
            identifier=StreamAccessLogsMessageIdentifier(log_name=log_name) if log_name else None,
            http_logs=StreamAccessLogsMessageHttpAccessLogEntries(
                log_entry=[HttpAccessLogEntry.parse(data) for data in entries]
            ),
        )
    )


def audit(request_id: str = "r1", **changes: Any) -> AuditRow:
    given = {
        "request_id": request_id,
        "team_id": TEAM,
        "model_requested": "auto",
        "model_routed": "gpt",
        "model_used": "gpt",
        "provider_used": "openai",
        "status": "success",
        "error_code": None,
        "http_status": 200,
        "routing_decision": "simple_query",
        "attempts": 1,
        "priority": "normal",
        "stream": True,
        "native": False,
        "cache_hit": False,
        "prompt_hash": "ab" * 32,
        "input_tokens": 100,
        "output_tokens": 50,
        "cached_tokens": 0,
        "cache_write_tokens": 0,
        "reasoning_tokens": 0,
        "estimated_input_tokens": 120,
        "estimated_output_tokens": 300,
        "estimated": False,
        "outrun_tokens": 0,
        "cost_nano_usd": 200_000,
        "finish_reason": "stop",
        "received_at": STARTED_S,
        "completed_at": STARTED_S + 0.9,
        "latency_ms": 900.0,
        "first_byte_ms": 212.0,
        "gateway_latency_ms": 1.5,
        "response_bytes": 5_000,
        "details": "via_upstream",
    }
    return AuditRow(**(given | changes))


def attempt(request_id: str = "r1", **changes: Any) -> AttemptRow:
    given = {
        "request_id": request_id,
        "provider": "openai",
        "model": "gpt",
        "started_at": STARTED_S,
        "verdict": "ok",
        "status": 200,
        "flags": "",
        "first_byte_ms": 200.0,
        "total_ms": 880.0,
        "stream": False,
        "retry_after_s": None,
        "at": STARTED_S + 0.9,
    }
    return AttemptRow(**(given | changes))
