"""The shared state as everybody here sees it: a client of Valkey or Redis, and how it fails.

pipe      one connection for all that a process asks: the hot path's way, and `open_state`, which chooses between these
redis_py  redis-py's clients, for what `pipe` does not speak. Loaded only then: it brings a fifth of a process's start
address   the URL, taken apart
"""

from typing import Any, Final, Protocol

Argument = str | bytes | int | float

TIMEOUT_S: Final = 0.25


class StateError(Exception):
    """The shared state did not do what it was asked."""


class StateUnreachable(StateError):
    """No connection, or it broke."""


class StateTimeout(StateError):
    """No connection or no answer in time."""


class ErrorReply(StateError):
    """The server's own word: the command is wrong here and now."""


class UnknownScript(ErrorReply):
    """NOSCRIPT: the server does not have the script of this hash: it is new, restarted or flushed."""


AWAY: Final = (StateError, OSError, TimeoutError)  # what asking may raise


class State(Protocol):
    """What is needed of a client. `one_server`: a script may use keys of any slot."""

    one_server: bool

    async def execute_command(self, *command: Argument) -> Any:
        """The reply. Raises AWAY."""

    async def aclose(self) -> None:
        """Close what is open."""
