"""The access log service: Envoy's log streams -> the intake, over either transport.

In: client streams on the settler's unix socket, one per log and Envoy worker; a stream's log is named in its first
message only. Out: each entry, to `take`. Nothing that arrives ends a stream: what cannot be read is counted and left.
Source: envoy/service/accesslog/v3/als.proto.
"""

import logging
from typing import Protocol

from google.protobuf.message import DecodeError

from extproc.body.pieces import Body
from extproc.settle.entries import whose
from extproc.transport.session import Service, Services
from protos.gen import accesslog_pb2 as pb

log = logging.getLogger(__name__)

METHOD = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_LOG_EACH = 1_000  # of unreadable things, after the first


class EntryTaker(Protocol):
    """What becomes of entries."""

    def take(self, log_name: str, entry: pb.HTTPAccessLogEntry) -> None:
        """Take one entry. May raise: that entry is then counted as unreadable."""

    def unreadable(self) -> None:
        """Count something that could not be read."""


def services(taker: EntryTaker) -> Services:
    """What the settler serves."""
    entries = Entries(taker)
    return {METHOD: Service(lambda: LogStream(entries), MAX_MESSAGE_BYTES)}


class LogStream:
    """One of Envoy's streams. Nothing is answered until it ends."""

    done = False

    def __init__(self, entries: "Entries") -> None:
        self._entries = entries
        self._log_name = ""

    def receive(self, message: Body) -> None:
        """Hand on the entries of one message."""
        self._log_name = self._entries.receive(self._log_name, bytes(message))

    def finish(self) -> bytes:
        """An empty StreamAccessLogsResponse."""
        return b""

    def close(self) -> None:
        """Nothing is held."""


class Entries:
    """What all streams share: where entries go, and how many could not be read."""

    def __init__(self, taker: EntryTaker) -> None:
        self._taker = taker
        self._unreadable = 0

    def receive(self, log_name: str, data: bytes) -> str:
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
                self._report(log_name, error, entry)
        return log_name

    def _report(self, log_name: str, error: Exception, entry: pb.HTTPAccessLogEntry | None = None) -> None:
        self._taker.unreadable()
        self._unreadable += 1
        if self._unreadable % _LOG_EACH == 1:
            seen = {"log": log_name, "reason": str(error), "so_far": self._unreadable}
            log.error("unreadable access log entry", extra=seen | (whose(entry) if entry else {}), exc_info=error)
