"""What children print, passed on to the supervisor's stderr, whole line by whole line.

In: bytes of each child's stdout and stderr. Out: the same lines on stderr, and the last few of each child for an error
message. A reader of our stderr who stops reading must not stop the gateway: a thread writes, and lines that find its
queue full are dropped and counted.
"""

import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable

from extproc.process.logs import JsonLines

_QUEUE_LINES = 10_000
_MAX_LINE_BYTES = 64 * 1024
_TAIL_LINES = 8

Rewrite = Callable[[bytes], bytes | None]  # of a line, without its end; None: it is left out


class Stderr:
    """Writes to `descriptor` (stderr) from a thread. `write` never blocks."""

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self._queue: queue.Queue[bytes | None] = queue.Queue(_QUEUE_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Queue `data`, or drop it if nobody reads."""
        try:
            self._queue.put_nowait(data)
        except queue.Full:
            self._dropped += 1

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what is queued, for at most `timeout_s`."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            if self._dropped:
                data = b"(%d lines dropped: nobody read them)\n" % self._dropped + data
                self._dropped = 0
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                continue  # the reader is gone for good; keep the queue moving


def _as_it_is(text: bytes) -> bytes:
    return text


class Lines:
    """Cuts one child's output into lines. `rewrite` puts each into the form of ours, or leaves it out; without it they
    have it."""

    def __init__(self, stderr: Stderr, rewrite: Rewrite | None = None) -> None:
        self._stderr = stderr
        self._rewrite = rewrite or _as_it_is
        self._partial = b""
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def feed(self, data: bytes) -> None:
        """Pass on every line that `data` completes; an over-long one in pieces."""
        self._partial += data
        whole, newline, rest = self._partial.rpartition(b"\n")
        if len(rest) > _MAX_LINE_BYTES:
            whole, newline, rest = self._partial, b"\n", b""
        self._partial = rest
        if newline:
            told = [text for text in map(self._rewrite, whole.split(b"\n")) if text is not None]
            if told:
                self._stderr.write(b"\n".join(told) + newline)
            self.tail.extend(whole.decode(errors="replace").splitlines())


def log_to(stderr: Stderr, process: str) -> None:
    """Send this process's own log records to `stderr`, as JSON lines like those of its children."""
    handler = _Handler(stderr)
    handler.setFormatter(JsonLines(process))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class _Handler(logging.Handler):
    def __init__(self, stderr: Stderr) -> None:
        super().__init__()
        self._stderr = stderr

    def emit(self, record: logging.LogRecord) -> None:
        self._stderr.write(self.format(record).encode() + b"\n")
