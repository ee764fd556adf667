"""What of a passing answer is to be kept. Pure; mutable on purpose: it goes with one request.

In: the exchange's reports of how the answer came. Out: one `Recording`, or the ticket given back, to the recorder:
exactly one of both, once, and neither for a stream whose ticket went to the settler.
"""

from typing import Literal, Protocol

import msgspec

from extproc.cache.ticket import Ticket
from extproc.records import Outcome, Target


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it passed to its client. `gateway_fields`: the gateway added its own to the whole answer."""

    ticket: Ticket
    kind: Literal["whole", "stream"]
    body: bytes
    target: Target
    outcome: Outcome
    gateway_fields: bool = False


class Taker(Protocol):
    """Where recordings go: the recorder. Neither waits."""

    def keep(self, recording: Recording) -> None:
        """Keep this answer, once it is found good."""

    def give_up(self, ticket: Ticket) -> None:
        """Nothing will come of this ticket."""


class Tape:
    """Of one request. Without a ticket it does nothing."""

    def __init__(self, ticket: Ticket | None = None, taker: Taker | None = None, most_bytes: int = 0) -> None:
        self._ticket = ticket
        self._taker = taker
        self._left = most_bytes
        self._pieces: list[bytes] = []

    @property
    def recording(self) -> bool:
        """Whether it wants to be told of the answer."""
        return self._ticket is not None

    def piece(self, data: bytes) -> None:
        """A piece of a stream, as the client gets it."""
        if self._ticket is None:
            return
        self._left -= len(data)
        if self._left < 0:
            self.give_up()
        else:
            self._pieces.append(data)

    def stream(self, target: Target, outcome: Outcome) -> None:
        """The stream is at its end."""
        self._keep("stream", b"".join(self._pieces), target, outcome)

    def whole(self, body: bytes, target: Target, outcome: Outcome, *, gateway_fields: bool) -> None:
        """An answer that was not streamed."""
        self._keep("whole", body, target, outcome, gateway_fields=gateway_fields)

    def hand_over(self) -> Ticket | None:
        """The settler goes on with it."""
        ticket, self._ticket = self._ticket, None
        return ticket

    def give_up(self) -> None:
        """Nothing is kept. Harmless twice, and after the end."""
        ticket = self.hand_over()
        self._pieces.clear()
        if ticket is not None and self._taker is not None:
            self._taker.give_up(ticket)

    def _keep(
        self,
        kind: Literal["whole", "stream"],
        body: bytes,
        target: Target,
        outcome: Outcome,
        *,
        gateway_fields: bool = False,
    ) -> None:
        ticket = self.hand_over()
        if ticket is None or self._taker is None:
            return
        self._taker.keep(
            Recording(
                ticket=ticket, kind=kind, body=body, target=target, outcome=outcome, gateway_fields=gateway_fields
            )
        )
