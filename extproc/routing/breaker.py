"""Circuits: which provider or model is left alone for a while. Pure: transitions as a table, time as a parameter.

In: what each attempt says about its provider. Out: a `Circuit`, and that it changed. The settler decides by what it
sees; `merged` takes over what other replicas decided: of two states of a circuit the later version is in force.

    closed ──tripped, refused──> open ──time_up──> half-open ──proven──> closed
                                  ^───failed, refused──┘
"""

import math
from typing import Final, Literal, get_args

import msgspec

from extproc.routing.windows import Ending, Observation, Tally, Window
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
_TOLD_WITHIN_S: Final = 1.0  # an attempt, after its end; and how often a settler reads what others decided, with it
PROVEN_BY: Final = 3  # probes in a row that were answered
# The test of a spell (ADR 10). Usual is the share that failed in the rest of the window, with `_PRIOR` (failed, all)
# put to it; nobody is so good that a few failures by chance would prove anything.
_PRIOR: Final = (2, 40)
_LEAST_USUAL: Final = 0.02
_ODDS: Final = 60.0  # how much likelier, and again by as many as there are attempts in the window to begin at
_MOST_ASKED: Final = 45  # a spell that proved nothing in so many is what is usual
_LEAST_FAILED: Final = 0.8  # of `min_requests`: fewer come together by chance too often
_MOST_RATE: Final = 0.99  # one answer among many failures does not refute that all fail


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
_ENDED: Final = {ending: Observation(ending) for ending in get_args(Ending)}  # how long it took decides nothing


def moved(circuit: Circuit, event: Event, now_s: float, open_for_s: float, reason: Reason = "failures") -> Circuit:
    """`circuit` after `event`; itself if that changes nothing."""
    state = TRANSITIONS.get((circuit.at(now_s), event))
    if state is None:
        return circuit
    version = max(circuit.version + 1, int(now_s * 1000))
    until_s = now_s + open_for_s if state == "open" else 0.0
    return Circuit(state=state, reason=reason, since_s=now_s, until_s=until_s, version=version)


def closed_by_hand(circuit: Circuit, now_s: float) -> Circuit:
    """`circuit` closed, whatever it was: later than any version of it so far, and than what attempts of before, which
    are told of a little later, may make of it."""
    return Circuit(since_s=now_s, version=max(circuit.version + 1, int((now_s + _TOLD_WITHIN_S) * 1000)))


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
        self._failing_s = 0.0  # when the first of them failed, or began if that is not known
        self._spell = _NO_SPELL
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
        event = self._event(seen, model, state, began_s, now_s)
        if refused:
            event = "refused"
        return event is not None and self.move(event, now_s)

    def move(self, event: Event, now_s: float) -> bool:
        """Let `event` happen. Returns whether the circuit changed."""
        reason: Reason = "credential" if event == "refused" else "failures"
        after = moved(self.circuit, event, now_s, self.settings.open_for, reason)
        return self.adopt(after)

    def _event(self, seen: Observation, model: str, state: State, began_s: float, now_s: float) -> Event | None:
        failed = seen.ending == "error"
        if state == "half-open":
            self._proven = 0 if failed else self._proven + 1
            return "failed" if failed else "proven" if self._proven >= PROVEN_BY else None
        self._window.add(now_s, _ENDED[seen.ending])
        self._models.add(model)
        ended_s = None if seen.total_ms is None else began_s + seen.total_ms / 1000
        if self._consecutive and not failed and ended_s is not None and ended_s < self._failing_s:
            return None  # told late: each of Envoy's threads tells of its attempts in its own time
        self._spell = self._spell.after(failed, self._window.read(now_s), self.settings.error_rate)
        if not failed:
            self._failures.clear()
            self._consecutive = 0
            return None
        failed_s = began_s if ended_s is None else ended_s
        self._failing_s = min(self._failing_s, failed_s) if self._consecutive else failed_s
        self._failures.add(model)
        self._consecutive += 1
        return "tripped" if self._too_many(now_s) else None

    def _too_many(self, now_s: float) -> bool:
        """One model that fails while others are answered is no reason to leave all of its provider alone."""
        if len(self._failures) == 1 and len(self._models) > 1:
            return False
        if self._consecutive >= self.settings.consecutive_failures:
            return True
        tally, settings = self._window.read(now_s), self.settings
        asked = tally.ok + tally.error
        if asked < settings.min_requests:
            return False
        enough = self._spell.failed >= _LEAST_FAILED * settings.min_requests
        lately = enough and self._spell.proves(tally, settings.error_rate)
        return lately or tally.error >= settings.error_rate * asked


class _Spell(msgspec.Struct, frozen=True):
    """Attempts since it may have begun to fail: as many of the last as are likelier with `rate` of them failing than
    with what is usual (Page's CUSUM). The whole window is slow to notice what began just now."""

    asked: int = 0
    failed: int = 0

    def after(self, failed: bool, tally: Tally, rate: float) -> "_Spell":
        """With one more attempt, which `tally` has too."""
        if not (failed or self.asked) or self.asked == _MOST_ASKED:
            return _NO_SPELL
        longer = _Spell(self.asked + 1, self.failed + failed)
        return longer if longer._evidence(tally, rate) > 0 else _NO_SPELL

    def proves(self, tally: Tally, rate: float) -> bool:
        """Whether bad luck is out of the question."""
        return self._evidence(tally, rate) >= math.log(_ODDS * (tally.ok + tally.error))

    def _evidence(self, tally: Tally, rate: float) -> float:
        """How much likelier, as a logarithm."""
        answered = self.asked - self.failed
        before = max(0, tally.error - self.failed), max(0, tally.ok - answered)
        usual = (before[0] + _PRIOR[0]) / (sum(before) + _PRIOR[1])
        usual, rate = min(max(usual, _LEAST_USUAL), rate / 2), min(rate, _MOST_RATE)
        return self.failed * math.log(rate / usual) + answered * math.log((1 - rate) / (1 - usual))


_NO_SPELL: Final = _Spell()
