"""One HTTP/2 stream as a server sees it: who may send how much, and who has ended. RFC 9113, section 5."""

from collections import deque
from typing import Any

from extproc.transport.frame import DEFAULT_WINDOW


class Stream:
    """Open until both sides have ended it or one has reset it; then its connection forgets it."""

    __slots__ = ("call", "credit", "ended", "half_closed", "id", "last_block", "left", "owed", "queue", "window")

    def __init__(self, stream_id: int, window: int, length: bytes) -> None:
        self.id = stream_id
        self.credit = DEFAULT_WINDOW  # bytes of DATA that the peer may still send
        self.owed = 0  # bytes of it that were consumed and not yet granted anew
        self.window = window  # bytes of DATA that we may still send; may be negative (section 6.9.2)
        self.half_closed = False  # the peer has ended its side
        self.ended = False  # we have, though the end may still wait in the queue
        self.queue: deque[memoryview] = deque()  # what we could not send yet
        self.last_block: bytes | None = None  # trailers to send behind it
        self.left = int(length) if length else None  # bytes of body still to come, by content-length
        self.call: Any = None  # whatever is served on it
