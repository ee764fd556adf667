"""How long to wait for the first byte of an answer before the next provider is asked. Pure.

In: how long the model took lately, what is asked of it. Out: milliseconds for Envoy's per-try timeout. From the p99 of
the last five minutes with room to spare; a prompt is given time to be read, an answer that is not streamed time to be
written. Without enough answers lately, the cold defaults of gateway.yaml. Called by the pipeline.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from extproc.records import Target
from extproc.routing.health import Latency
from extproc.routing.standing import View
from extproc.settings import Routing

# Slower than any provider reads a prompt: 10,000 tokens a second.
_READING_MS_PER_TOKEN: Final = 0.1


class Deadline(msgspec.Struct, frozen=True):
    """`race`: when it is over, the next attempt starts and the first is not cut off; the first answer wins.
    `hedge`: the operator wants races, and to see what they cost."""

    ms: int  # 0: none
    race: bool = False
    hedge: bool = False


_NONE: Final = Deadline(0)


class Asked(msgspec.Struct, frozen=True):
    """What an answer's duration depends on."""

    stream: bool
    input_tokens: int = 0
    length: float = 1.0  # of an answer that is not streamed, against what is usual for the model


def deadline(view: View, targets: Sequence[Target], asked: Asked, settings: Routing) -> Deadline:
    """The first-byte deadline of a request's attempts. Envoy has one for all of them: the first target's.

    By `auto` they race, for nothing but a guess would cut them off: a stand-in that takes longer than the first, or
    all of them on a slow day. With nobody to turn to, giving up gains nothing: a model may think for minutes before it
    says a word. Then only `timeouts` bound the wait.
    """
    several = len(targets) > 1
    hedge = settings.hedge and several
    if settings.first_byte_timeout != "auto":
        return Deadline(_ms(settings.first_byte_timeout), race=hedge, hedge=hedge)
    if not several:
        return _NONE
    return Deadline(_ms(usual_s(view.latency(targets[0]), asked, settings)), race=True, hedge=hedge)


def usual_s(latency: Latency, asked: Asked, settings: Routing) -> float:
    """What `first_byte_timeout: auto` gives a model that lately took so long."""
    p99_ms = latency.first_byte_p99_ms if asked.stream else latency.whole_p99_ms
    if p99_ms is None:
        return _cold_s(asked, settings)
    length = 1.0 if asked.stream else asked.length
    limits = settings.deadlines
    wanted_ms = limits.factor * length * p99_ms + _READING_MS_PER_TOKEN * asked.input_tokens
    return min(max(wanted_ms / 1000, limits.min), limits.max)


def _cold_s(asked: Asked, settings: Routing) -> float:
    return settings.deadlines.cold if asked.stream else settings.deadlines.cold_whole


def _ms(seconds: float) -> int:
    return round(1000 * seconds)
