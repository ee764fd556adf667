"""The access log service: Envoy's log streams -> the intake. A thin shell; the only file here that knows grpc.

In: client streams on the settler's unix socket, one per log and Envoy worker; a stream's log is named in its first
message only. Out: each entry, to `take`. Nothing that arrives ends a stream: what cannot be read is counted and left.
A generic handler on the method path takes raw bytes, so no generated service is needed.
Source: envoy/service/accesslog/v3/als.proto.
"""

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import grpc
from google.protobuf.message import DecodeError

from protos.gen import accesslog_pb2 as pb

log = logging.getLogger(__name__)

METHOD = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
_OPTIONS = (("grpc.max_receive_message_length", 64 * 1024 * 1024), ("grpc.so_reuseport", 0))
_LOG_EACH = 1_000  # of unreadable things, after the first


class EntryTaker(Protocol):
    """What becomes of entries."""

    def take(self, log_name: str, entry: pb.HTTPAccessLogEntry) -> None:
        """Take one entry. May raise: that entry is then counted as unreadable."""

    def unreadable(self) -> None:
        """Count something that could not be read."""


class AccessLogServer(grpc.GenericRpcHandler):  # type: ignore[misc] # grpc has no types
    """Serves the access log service on a unix socket."""

    def __init__(self, taker: EntryTaker) -> None:
        self._taker = taker
        self._unreadable = 0
        self._handler = grpc.stream_unary_rpc_method_handler(self._stream)
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((self,))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """grpc asks which handler serves a method; ours is the only one."""
        return self._handler if handler_call_details.method == METHOD else None

    async def start(self, socket: Path) -> None:
        """Bind and serve. Raises RuntimeError if the socket cannot be bound."""
        self._server.add_insecure_port(f"unix:{socket}")
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take what is on its way for up to `grace_s`, then end all streams."""
        await self._server.stop(grace_s)

    async def _stream(self, messages: AsyncIterator[bytes], _: object) -> bytes:
        log_name = ""
        async for data in messages:
            log_name = self._receive(log_name, data)
        return b""

    def _receive(self, log_name: str, data: bytes) -> str:
        """Hand on the entries of one message. Returns the stream's log."""
        try:
            message = pb.StreamAccessLogsMessage.FromString(data)
        except DecodeError as error:
            self._report(log_name, error)
            return log_name
        log_name = message.identifier.log_name or log_name
        for entry in message.http_logs.log_entry:
            try:
                self._taker.take(log_name, entry)
            except Exception as error:  # one entry, whatever is wrong with it, must not cost the others
                self._report(log_name, error)
        return log_name

    def _report(self, log_name: str, error: Exception) -> None:
        self._taker.unreadable()
        self._unreadable += 1
        if self._unreadable % _LOG_EACH == 1:
            seen = {"log": log_name, "reason": str(error), "so_far": self._unreadable}
            log.error("unreadable access log entry", extra=seen, exc_info=error)
