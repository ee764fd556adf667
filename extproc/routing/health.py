"""How providers and their models are doing: attempts in, circuits and figures out. Pure.

In: `Seen`, one an attempt, from Envoy's upstream log. Out: `Standing` of everything that is not simply up, for the
workers; `Figures` for people; `Latency` for deadlines. A key is a provider (`openai`) or a model of it
(`openai/gpt-4o`): each has windows and a circuit of its own. Held by the settler, which shares it (settle/health.py).
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from extproc.errors import UNSAID_RETRY_AFTER_S
from extproc.routing.breaker import CLOSED, Circuit, CircuitBreaker
from extproc.routing.windows import Ending, Observation, Tally, Window, quantile_ms
from extproc.settings import Breaker

MINUTE_S: Final = 60.0
LATELY_S: Final = 300.0
FORBIDDEN: Final = 403
REFUSED: Final = (401, FORBIDDEN)
FEWEST_FOR_LATENCY: Final = 10


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt, as far as it tells something of its provider."""

    provider: str
    model: str  # the gateway's name; "" if the log did not say
    ending: Ending
    status: int | None
    began_s: float
    ended_s: float
    first_byte_ms: float | None = None
    total_ms: float | None = None
    stream: bool = False
    retry_after_s: float | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """What it is evidence of."""
        return (self.provider, key_of(self.provider, self.model)) if self.model else (self.provider,)

    @property
    def refused_keys(self) -> tuple[str, ...]:
        """What is left alone, if it was refused. A 401 is about the credential, which all models share; a 403 may be
        about this model (Bedrock: access was not granted), and if it is not, the others say so themselves."""
        return self.keys[-1:] if self.status == FORBIDDEN else self.keys[:1]


class Latency(msgspec.Struct, frozen=True, omit_defaults=True):
    """What deadlines are made of, of one model; None: not known. Of the last five minutes."""

    first_byte_p99_ms: float | None = None  # of streams
    whole_p99_ms: float | None = None  # of answers that were not streamed


class Record(msgspec.Struct):
    """What one replica saw of one key."""

    minute: Tally
    lately: Tally
    last_failure_s: float | None = None
    last_success_s: float | None = None


class Standings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What workers need to know, by key; what is not here is up and unknown."""

    circuits: Mapping[str, Circuit] = {}
    limited_until_s: Mapping[str, float] = {}  # by provider: it asked us to wait
    drained: frozenset[str] = frozenset()  # providers
    latencies: Mapping[str, Latency] = {}


class Figures(msgspec.Struct, frozen=True):
    """Of one key, over all replicas. Rates are shares from 0 to 1, latencies to the first byte of an answer."""

    error_rate_1m: float
    error_rate_5m: float
    attempts_1m: int
    attempts_5m: int
    errors_1m: int
    errors_5m: int
    p50_latency_ms: float | None
    p99_latency_ms: float | None
    p50_total_ms: float | None
    p99_total_ms: float | None
    last_failure_s: float | None
    last_success_s: float | None


def key_of(provider: str, model: str) -> str:
    """The key of a model at a provider."""
    return f"{provider}/{model}"


class _Kept:
    """Windows and circuit of one key."""

    def __init__(self, settings: Breaker) -> None:
        self.minute = Window(MINUTE_S)
        self.lately = Window(LATELY_S)
        self.breaker = CircuitBreaker(settings)
        self.last_failure_s: float | None = None
        self.last_success_s: float | None = None

    def record(self, now_s: float) -> Record:
        return Record(self.minute.read(now_s), self.lately.read(now_s), self.last_failure_s, self.last_success_s)


class Health:
    """Everything of one replica, and what others said. `observe` for each attempt."""

    def __init__(self, settings: Breaker) -> None:
        self._settings = settings
        self._kept: dict[str, _Kept] = {}
        self.limited_until_s: dict[str, float] = {}
        self._asked_s: dict[str, float] = {}  # when we were: others say only until when
        self.drained: frozenset[str] = frozenset()

    def use(self, settings: Breaker) -> None:
        """Go by `settings` from now on."""
        self._settings = settings
        for kept in self._kept.values():
            kept.breaker.settings = settings

    def observe(self, seen: Seen, now_s: float) -> list[str]:
        """Take in one attempt that ended about now. Returns the keys whose circuit changed."""
        observation = self.count(seen, now_s)
        if seen.ending == "rate_limited" and seen.ended_s >= self._enabled_s(seen.provider):
            wait_s = UNSAID_RETRY_AFTER_S if seen.retry_after_s is None else seen.retry_after_s
            until_s = seen.ended_s + min(wait_s, self._settings.max_retry_after)  # it was told of since
            self.limited_until_s[seen.provider] = max(until_s, self.limited_until_s.get(seen.provider, 0.0))
            self._asked_s[seen.provider] = seen.ended_s
        refused = seen.status in REFUSED
        return [
            key
            for key in (seen.refused_keys if refused else seen.keys)
            if self._of(key).breaker.observe(observation, seen.model, seen.began_s, now_s, refused=refused)
        ]

    def count(self, seen: Seen, now_s: float) -> Observation:
        """Take it into the figures only: an attempt of before this process began."""
        observation = Observation(seen.ending, seen.first_byte_ms, seen.total_ms, seen.stream)
        for key in seen.keys:
            kept = self._of(key)
            kept.minute.add(now_s, observation)
            kept.lately.add(now_s, observation)
            if seen.ending == "ok":
                kept.last_success_s = now_s
            else:
                kept.last_failure_s = now_s
        return observation

    def adopt(self, circuits: Mapping[str, Circuit]) -> list[str]:
        """Take over circuits of other replicas that are later than ours. Returns the keys that changed."""
        changed = [key for key, circuit in circuits.items() if self._of(key).breaker.adopt(circuit)]
        for key in changed:
            if circuits[key].state == "closed" and self._asked_s.get(key, 0.0) < circuits[key].since_s:
                self.limited_until_s.pop(key, None)  # it was put back into use by hand
        return changed

    def wait_for(self, limited_until_s: Mapping[str, float]) -> bool:
        """Take over how long other replicas were asked to wait. Returns whether it is longer than we knew."""
        later = {key: at for key, at in limited_until_s.items() if at > self.limited_until_s.get(key, 0.0)}
        self.limited_until_s.update(later)
        return bool(later)

    def circuits(self) -> dict[str, Circuit]:
        """Every circuit that was ever moved."""
        return {key: kept.breaker.circuit for key, kept in self._kept.items() if kept.breaker.circuit is not CLOSED}

    def records(self, now_s: float) -> dict[str, Record]:
        """What this replica saw, by key."""
        return {key: kept.record(now_s) for key, kept in self._kept.items()}

    def standings(self, records: Mapping[str, Record], now_s: float) -> Standings:
        """For the workers; `records`: of all replicas together."""
        latencies = {key: latency_of(record.lately) for key, record in records.items() if "/" in key}
        return Standings(
            circuits={key: circuit for key, circuit in self.circuits().items() if circuit.state != "closed"},
            limited_until_s={name: until for name, until in self.limited_until_s.items() if until > now_s},
            drained=self.drained,
            latencies={key: latency for key, latency in latencies.items() if latency != Latency()},
        )

    def _enabled_s(self, provider: str) -> float:
        """Since when it is in use again: what it asked before, and is told of only now, counts no more."""
        circuit = self._of(provider).breaker.circuit
        return circuit.since_s if circuit.state == "closed" else 0.0

    def _of(self, key: str) -> _Kept:
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = _Kept(self._settings)
        return kept


def latency_of(lately: Tally) -> Latency:
    """The high quantiles, of as many as are enough to say; rounded, so that what hardly changed stays the same."""
    return Latency(first_byte_p99_ms=_p99(lately.streamed), whole_p99_ms=_p99(lately.whole))


def _p99(bins: dict[int, int]) -> float | None:
    duration_ms = quantile_ms(bins, 0.99) if sum(bins.values()) >= FEWEST_FOR_LATENCY else None
    return None if duration_ms is None else float(f"{duration_ms:.2g}")


def together(records: Mapping[str, Mapping[str, Record]]) -> dict[str, Record]:
    """The records of several replicas (by replica, then by key) added up."""
    result: dict[str, Record] = {}
    for of_replica in records.values():
        for key, record in of_replica.items():
            total = result.setdefault(key, Record(_empty(), _empty()))
            total.minute.add(record.minute)
            total.lately.add(record.lately)
            total.last_failure_s = _later(total.last_failure_s, record.last_failure_s)
            total.last_success_s = _later(total.last_success_s, record.last_success_s)
    return result


def _empty() -> Tally:
    return Tally(streamed={}, whole={}, total={})


def _later(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else max(one, other)


def figures(record: Record) -> Figures:
    """The figures of a record."""
    minute, lately = record.minute, record.lately
    first_byte = lately.first_byte
    return Figures(
        error_rate_1m=minute.error_rate,
        error_rate_5m=lately.error_rate,
        attempts_1m=minute.attempts,
        attempts_5m=lately.attempts,
        errors_1m=minute.error,
        errors_5m=lately.error,
        p50_latency_ms=_rounded(quantile_ms(first_byte, 0.50)),
        p99_latency_ms=_rounded(quantile_ms(first_byte, 0.99)),
        p50_total_ms=_rounded(quantile_ms(lately.total, 0.50)),
        p99_total_ms=_rounded(quantile_ms(lately.total, 0.99)),
        last_failure_s=record.last_failure_s,
        last_success_s=record.last_success_s,
    )


def _rounded(duration_ms: float | None) -> float | None:
    return None if duration_ms is None else round(duration_ms, 3)
