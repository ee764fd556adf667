"""How much of what does no work a peer may send: resets, pings, settings, empty frames.

A stream opened and reset at once, again and again, costs the peer nothing and us all that a request costs
(CVE-2023-44487). A wave of clients that leave together is legitimate, so the bound is far above what Envoy can be
asked to relay, and far below what would hurt.
"""

from collections.abc import Callable

from extproc.transport.frame import Code, ConnectionFault

BURST = 10_000
PER_SECOND = 2_000


class Calm:
    """A token bucket over such frames."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock  # seconds
        self._left: float = BURST
        self._filled_at = clock()

    def disturb(self) -> None:
        """Count one. Raises ConnectionFault when there are too many."""
        self._left -= 1
        if self._left < 0:
            now = self._clock()
            self._left = min(BURST, self._left + (now - self._filled_at) * PER_SECOND)
            self._filled_at = now
            if self._left < 0:
                raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many frames that do no work")
