"""Logs of every process: one JSON object a line, on stderr.

In: the standard library's logging; whatever a call passes as `extra` becomes fields. Out: lines such as
`{"at": "2026-11-24T04:28:48.123Z", "level": "info", "process": "settler", "event": "serving", …}`. `event` is the
message: a short constant, so that lines can be counted by it. Set up once, first thing, by each process.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

_STANDARD = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime"})


def setup(process: str, level: int = logging.INFO) -> None:
    """Send all log records of this process to stderr, as JSON lines under its name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(process))
    logging.basicConfig(level=level, handlers=[handler], force=True)


class JsonLines(logging.Formatter):
    """A log record -> one line of JSON."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end. Values that JSON does not know become their `repr`."""
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            extra["exception"] = self.formatException(record.exc_info)
        return line(record.created, record.levelname.lower(), self._process, record.getMessage(), **extra)


class Trouble:
    """What may fail for a while, however often it is tried: one line when that begins, one when it is over."""

    def __init__(self, log: logging.Logger, begins: str, ends: str, level: int = logging.WARNING) -> None:
        self._log = log
        self._begins = begins
        self._ends = ends
        self._level = level
        self.lasts = False

    def seen(self, reason: object, **extra: Any) -> None:
        """It failed."""
        if not self.lasts:
            self._log.log(self._level, self._begins, extra={"reason": str(reason)} | extra)
        self.lasts = True

    def over(self, **extra: Any) -> None:
        """It was done."""
        if self.lasts:
            self._log.info(self._ends, extra=extra)
        self.lasts = False


def line(at_s: float, level: str, process: str, event: str, /, **extra: Any) -> str:
    """One line, without its end: the fields that every line has, then the others."""
    fields = {"at": rfc3339(at_s), "level": level, "process": process, "event": event} | extra
    return msgspec.json.encode(fields, enc_hook=repr).decode("utf-8", "replace")


def rfc3339(at_s: float) -> str:
    """Seconds since the epoch -> `2026-11-24T04:28:48.123Z`."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
