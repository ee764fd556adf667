"""May a request go to this target now? Standings and the time in, one of four answers out. Pure but for its memory of
the last probe.

In: the settler's `Standings`, as last read. Out: `Standing` per target. Each worker has one `View`; the choice asks it.
A half-open circuit lets a share of requests through as probes, and at least one every PROBE_EVERY_S of each worker, so
that a provider comes back where there is little traffic too.
"""

from typing import Final, Literal

import msgspec

from extproc.records import Target
from extproc.routing.health import Latency, Standings, key_of
from extproc.settings import Breaker

Way = Literal["up", "probe", "limited", "down"]

PROBE_EVERY_S: Final = 2.0


class Standing(msgspec.Struct, frozen=True):
    """How a target may be used. `probe`: its circuit is half-open. `admit`: this request is one of the probes."""

    way: Way = "up"
    wait_s: float | None = None  # of all but `up`: until a request is let through for sure; None: nobody knows
    admit: bool = False


UP: Final = Standing()


class View:
    """What a worker knows of providers' health. `standings` is replaced whenever there is news."""

    def __init__(self, settings: Breaker) -> None:
        self.standings = Standings()
        self._probed_s: dict[str, float] = {}
        self.use(settings)

    def use(self, settings: Breaker) -> None:
        """Go by `settings` from now on."""
        self._share = settings.probe_share

    @property
    def calm(self) -> bool:
        """Whether everything is up, as far as is known."""
        known = self.standings
        return not (known.circuits or known.limited_until_s or known.drained)

    def of(self, target: Target, now_s: float, draw: float) -> Standing:
        """How `target` may be used now. `draw`: the request's chance, 0 to 1."""
        known = self.standings
        if target.provider in known.drained:
            return Standing("down")
        until_s = known.limited_until_s.get(target.provider, 0.0)
        if until_s > now_s:
            return Standing("limited", until_s - now_s)
        if not known.circuits:
            return UP
        result = UP
        for key in (target.provider, key_of(target.provider, target.model)):
            circuit = known.circuits.get(key)
            if circuit is None:
                continue
            state = circuit.at(now_s)
            if state == "open":
                return Standing("down", circuit.until_s - now_s)
            if state == "half-open":
                due_s = max(0.0, self._probed_s.get(key, 0.0) + PROBE_EVERY_S - now_s)
                lucky = draw < self._share or not due_s
                wait_s = max(due_s, result.wait_s or 0.0)
                result = Standing("probe", wait_s, admit=lucky and (result is UP or result.admit))
        return result

    def asked(self, target: Target, now_s: float) -> None:
        """`target` is asked first by a request: a probe, if a circuit of it is half-open."""
        if self.standings.circuits:
            for key in (target.provider, key_of(target.provider, target.model)):
                if key in self.standings.circuits:
                    self._probed_s[key] = now_s

    def latency(self, target: Target) -> Latency:
        """How long it took lately."""
        return self.standings.latencies.get(key_of(target.provider, target.model), _UNKNOWN)


_UNKNOWN: Final = Latency()
