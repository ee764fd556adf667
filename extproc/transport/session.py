"""What a transport serves: services by their method path, and a session for each call.

The same sessions are served by `lean` and by `grpcio`; neither knows what the messages mean.
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from extproc.body.pieces import Body

Reply = Body | tuple[Body, ...] | None  # a message, several, or nothing to say


class Session(Protocol):
    """One call. Its messages come one at a time, each after the reply to the one before."""

    @property
    def done(self) -> bool:
        """Asked after a reply: whether to end the call, although the caller may have more to say."""

    def receive(self, message: Body) -> Reply | Coroutine[Any, Any, Reply]:
        """The reply to one message, or what has to be awaited for it. Raising ends the call as INTERNAL."""

    def finish(self) -> Reply:
        """The caller has said all; the last reply."""

    def close(self) -> None:
        """The call is over, however it ended. Always called, once."""


class Service(msgspec.Struct, frozen=True):
    """A method: who serves a call of it, and how large a message may be (bytes)."""

    session: Callable[[], Session]
    max_message: int


Services = Mapping[str, Service]  # by path, such as `/package.Service/Method`


class Server(Protocol):
    """A transport."""

    async def start(self, socket: Path) -> None:
        """Bind a unix socket and serve. Raises OSError or RuntimeError if it cannot be bound."""

    def stop(self, grace_s: float) -> Awaitable[None]:
        """Refuse new calls, let running ones finish for up to `grace_s`, then end them."""
