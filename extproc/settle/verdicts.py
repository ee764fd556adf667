"""The last word on an attempt: Envoy saw an answer of 200, whoever read it may have found none in it.

In: attempts, and requests with what they say of the answer (an error event in a stream, an unreadable body); Envoy
tells of both at about the same time, in either order. Out: every attempt, its verdict corrected where there is reason.
An answer waits for its request for two turns at most. Held by the intake, on the event loop.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from extproc.process.beat import beat
from extproc.settle.recent import Recent
from extproc.settle.rows import AttemptRow, AuditRow, Verdict

TURN_S: Final = 0.5  # Envoy hands its entries over every tenth of a second, in several streams

_Ill = tuple[str | None, str | None, Verdict]  # provider and model that answered, and how


class Verdicts:
    """`out`: takes each attempt. `settled`: ids of requests that were told of lately."""

    def __init__(self, out: Callable[[AttemptRow], None], settled: Recent) -> None:
        self._out = out
        self._settled = settled
        self._waiting: tuple[dict[str, list[AttemptRow]], dict[str, list[AttemptRow]]] = {}, {}  # this turn's, the last
        self._ill: tuple[dict[str, _Ill], dict[str, _Ill]] = {}, {}

    def attempt(self, row: AttemptRow) -> None:
        """An attempt has ended."""
        if row.status != 200 or row.verdict != "ok":
            self._out(row)
        elif row.request_id in self._settled:
            ill = self._ill[0].get(row.request_id) or self._ill[1].get(row.request_id)
            self._out(_judged(row, ill))
        else:
            self._waiting[0].setdefault(row.request_id, []).append(row)

    def request(self, row: AuditRow, verdict: Verdict | None) -> None:
        """A request has ended, and is among `settled`. `verdict`: on its answer; None: nothing speaks against it."""
        ill = None if verdict is None else (row.provider_used, row.model_used, verdict)
        if ill is not None:
            self._ill[0][row.request_id] = ill
        for waiting in self._waiting:
            for attempt in waiting.pop(row.request_id, ()):
                self._out(_judged(attempt, ill))

    def turn(self) -> None:
        """What waited over a whole turn goes as it is."""
        for attempts in self._waiting[1].values():
            for attempt in attempts:
                self._out(attempt)
        self._waiting = {}, self._waiting[0]
        self._ill = {}, self._ill[0]

    async def run(self) -> None:
        """Turn after turn, until cancelled."""
        while True:
            await beat(TURN_S)
            self.turn()

    def close(self) -> None:
        """Nothing waits any longer."""
        self.turn()
        self.turn()


def _judged(row: AttemptRow, ill: _Ill | None) -> AttemptRow:
    if ill is None or ill[:2] != (row.provider, row.model):
        return row
    return msgspec.structs.replace(row, verdict=ill[2])
