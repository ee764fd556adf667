"""Circuits: which provider or model is left alone for a while. Pure: transitions as a table, time as a parameter.

In: what each attempt says about its provider. Out: a `Circuit`, and that it changed. The settler decides by what it
sees; `merged` takes over what other replicas decided: of two states of a circuit the later version is in force.

    closed ──tripped, refused──> open ──time_up──> half-open ──proven──> closed
                                  ^───failed, refused──┘
"""

import math
from collections import deque
from typing import Final, Literal

import msgspec

from extproc.routing.windows import Observation, Window
from extproc.settings import Breaker

State = Literal["closed", "open", "half-open"]
Event = Literal["tripped", "refused", "time_up", "failed", "proven"]
Reason = Literal["failures", "credential"]

# What is not here changes nothing.
TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    ("closed", "tripped"): "open",
    ("closed", "refused"): "open",
    ("open", "time_up"): "half-open",
    ("half-open", "failed"): "open",
    ("half-open", "refused"): "open",
    ("half-open", "proven"): "closed",
}
PROVEN_BY: Final = 3  # probes in a row that were answered
# What began just now is looked for in the last attempts: those of `_LATELY_S`, at least `_LAST` times `min_requests`.
# ADR 10: with half of them failing at 20 a second, 14 attempts notice in 0.65 s (median).
_LATELY_S: Final = 0.7
_LAST: Final = 1.4


class Circuit(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of one circuit. An open one is half-open from `until_s` on, whoever looks at it."""

    state: State = "closed"
    reason: Reason = "failures"
    since_s: float = 0.0  # of the last change; attempts that began earlier say nothing of it
    until_s: float = 0.0  # of an open one
    version: int = 0

    def at(self, now_s: float) -> State:
        """The state at `now_s`."""
        return TRANSITIONS["open", "time_up"] if self.state == "open" and now_s >= self.until_s else self.state


CLOSED: Final = Circuit()


def moved(circuit: Circuit, event: Event, now_s: float, open_for_s: float, reason: Reason = "failures") -> Circuit:
    """`circuit` after `event`; itself if that changes nothing."""
    state = TRANSITIONS.get((circuit.at(now_s), event))
    if state is None:
        return circuit
    version = max(circuit.version + 1, int(now_s * 1000))
    until_s = now_s + open_for_s if state == "open" else 0.0
    return Circuit(state=state, reason=reason, since_s=now_s, until_s=until_s, version=version)


def closed_by_hand(circuit: Circuit, now_s: float) -> Circuit:
    """`circuit` closed, whatever it was, and later than any version of it so far."""
    return Circuit(since_s=now_s, version=max(circuit.version + 1, int(now_s * 1000)))


def merged(one: Circuit, other: Circuit) -> Circuit:
    """Which of two states of a circuit is in force: the later one; of two that are equally late, the open one."""
    return max(one, other, key=lambda circuit: (circuit.version, circuit.state == "open", circuit.until_s))


class CircuitBreaker:
    """Decides about one circuit by the attempts it is told of."""

    def __init__(self, settings: Breaker) -> None:
        self.circuit = CLOSED
        self.settings = settings
        self._start()

    def _start(self) -> None:
        """Attempts of earlier states no longer count."""
        self._window = Window(self.settings.window)
        self._failures: set[str] = set()  # models of the failures since the last success
        self._models: set[str] = set()  # models that were asked at all
        self._consecutive = 0
        self._last: deque[tuple[float, bool]] = deque()  # when, and whether it failed
        self._last_failed = 0
        self._proven = 0

    def adopt(self, circuit: Circuit) -> bool:
        """Take over `circuit` if it is later than ours. Returns whether it was."""
        if merged(self.circuit, circuit) == self.circuit:
            return False
        self.circuit = circuit
        self._start()
        return True

    def observe(self, seen: Observation, model: str, began_s: float, now_s: float, *, refused: bool = False) -> bool:
        """Take in one attempt. `refused`: our credential was. Returns whether the circuit changed.

        A rate limit is no failure of a provider's: it neither opens a circuit nor proves that it may close.
        """
        state = self.circuit.at(now_s)
        since_s = self.circuit.until_s if state == "half-open" else self.circuit.since_s
        if seen.ending == "rate_limited" or state == "open" or began_s < since_s:
            return False
        event = self._event(seen, model, state, now_s)
        if refused:
            event = "refused"
        return event is not None and self.move(event, now_s)

    def move(self, event: Event, now_s: float) -> bool:
        """Let `event` happen. Returns whether the circuit changed."""
        reason: Reason = "credential" if event == "refused" else "failures"
        after = moved(self.circuit, event, now_s, self.settings.open_for, reason)
        return self.adopt(after)

    def _event(self, seen: Observation, model: str, state: State, now_s: float) -> Event | None:
        failed = seen.ending == "error"
        if state == "half-open":
            self._proven = 0 if failed else self._proven + 1
            return "failed" if failed else "proven" if self._proven >= PROVEN_BY else None
        self._window.add(now_s, seen)
        self._models.add(model)
        self._note(failed, now_s)
        if not failed:
            self._failures.clear()
            self._consecutive = 0
            return None
        self._failures.add(model)
        self._consecutive += 1
        return "tripped" if self._too_many(now_s) else None

    def _too_many(self, now_s: float) -> bool:
        """One model that fails while others are answered is no reason to leave all of its provider alone."""
        if len(self._failures) == 1 and len(self._models) > 1:
            return False
        if self._consecutive >= self.settings.consecutive_failures:
            return True
        tally = self._window.read(now_s)
        return self._share(tally.error, tally.ok + tally.error) or self._share(self._last_failed, len(self._last))

    def _note(self, failed: bool, now_s: float) -> None:
        """One more of the last attempts; the whole window is slow to notice what began just now."""
        self._last.append((now_s, failed))
        self._last_failed += failed
        most = math.ceil(_LAST * self.settings.min_requests)
        while (age_s := now_s - self._last[0][0]) > self.settings.window or (
            len(self._last) > most and age_s > _LATELY_S
        ):
            self._last_failed -= self._last.popleft()[1]

    def _share(self, failed: int, asked: int) -> bool:
        return asked >= self.settings.min_requests and failed / asked >= self.settings.error_rate
