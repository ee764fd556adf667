"""Where an exchange with Envoy is, and what may come next. Drawn in ARCHITECTURE.md."""

from enum import Enum

from extproc.exchange.frames import Kind


class State(Enum):
    """Where an exchange is."""

    START = "start"
    READING = "reading"  # authenticated; the body is coming
    WAITING = "waiting"  # sent upstream; no answer yet
    BUFFERING = "buffering"  # the whole answer is collected
    STREAMING = "streaming"  # the answer comes piece by piece
    RELAYING = "relaying"  # a fallback attempt whose answer must be put into the client's format; see `relay`
    DONE = "done"  # nothing more to say: answered here, or the rest passes by Envoy alone

    __hash__ = object.__hash__


TRANSITIONS: dict[tuple[State, Kind], tuple[State, ...]] = {
    (State.START, Kind.REQUEST_HEADERS): (State.READING, State.RELAYING, State.DONE),
    (State.READING, Kind.REQUEST_BODY): (State.READING, State.WAITING, State.DONE),
    (State.READING, Kind.RESPONSE_HEADERS): (State.DONE,),  # Envoy answered itself, e.g. 413
    (State.WAITING, Kind.REQUEST_BODY): (State.WAITING,),  # no more of it: only that it ended
    (State.WAITING, Kind.RESPONSE_HEADERS): (State.BUFFERING, State.STREAMING, State.DONE),
    (State.BUFFERING, Kind.RESPONSE_BODY): (State.BUFFERING, State.DONE),
    (State.STREAMING, Kind.RESPONSE_BODY): (State.STREAMING, State.DONE),
    (State.STREAMING, Kind.TRAILERS): (State.DONE,),
    (State.RELAYING, Kind.RESPONSE_HEADERS): (State.RELAYING, State.DONE),
    (State.RELAYING, Kind.RESPONSE_BODY): (State.RELAYING, State.DONE),
    (State.RELAYING, Kind.TRAILERS): (State.DONE,),
}
