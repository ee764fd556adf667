"""One connection to the shared state for everything a process asks of it: the hot path's way to Valkey or Redis.

In: commands from any number of callers. Out: their replies. Commands of one turn of the event loop leave in one write
and replies that arrive together are read together, so a call costs a fraction of what a connection from a pool does
(measured in docs/adr/0007). It speaks RESP2 over a unix socket or TCP to one server; TLS, clusters and everything that
is not on the hot path use redis-py, which `open_state` falls back to: both are a `State`.

Every wait ends after the timeout. A server that does not answer in time breaks the connection, since its late replies
would be taken for those of later commands. Commands on a connection that breaks otherwise are sent once more: they must
be repeatable.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import hiredis

from extproc.state import (
    TIMEOUT_S,
    Argument,
    ErrorReply,
    State,
    StateError,
    StateTimeout,
    StateUnreachable,
    UnknownScript,
)
from extproc.state.address import of_sentinels, of_server

if TYPE_CHECKING:
    from extproc.state.redis_py import Primary

_NOTHING_YET: Final = object()
_GRACE_S: Final = 0.01
# The server is there but not the one to talk to: a replica since a failover, or still loading.
_ELSEWHERE: Final = ("READONLY", "LOADING", "MASTERDOWN")


def open_state(url: str, *, timeout_s: float = TIMEOUT_S) -> State:
    """A Pipe where it speaks what `url` asks for, else redis-py's client. No I/O yet."""
    options = of_server(url)
    if options is not None:
        return Pipe(options, timeout_s)
    from extproc.state.redis_py import Primary, connect  # noqa: PLC0415 - see `extproc.state`

    if url.startswith("redis+sentinel://"):
        address = of_sentinels(url)
        return Pipe(address.server, timeout_s, Primary(address, timeout_s))
    return connect(url, timeout_s=timeout_s)


class Pipe:
    """See the module. `options`: see `of_server`. `primary`: who knows host and port."""

    one_server = True

    def __init__(
        self, options: Mapping[str, Any], timeout_s: float = TIMEOUT_S, primary: "Primary | None" = None
    ) -> None:
        self._options = options
        self._primary = primary
        self._timeout_s = timeout_s
        self._link: _Link | None = None
        self._connecting: asyncio.Task[_Link] | None = None

    async def execute_command(self, *command: Argument) -> Any:
        """The reply: bytes, int, None or a list of them. Raises StateError."""
        packed = _packed(*command)
        link = self._link
        if link is None or link.broken is not None:
            link = await self._connected()
        try:
            return await link.send(packed)
        except StateUnreachable:
            link = await self._connected()
            return await link.send(packed)

    async def aclose(self) -> None:
        """Close the connection. A later command would open a new one."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._link is not None:
            self._link.break_off(StateUnreachable("closed"))
        if self._primary is not None:
            await self._primary.aclose()

    async def _connected(self) -> "_Link":
        """The connection, made by whoever needs it first while the others wait."""
        if self._link is not None and self._link.broken is None:
            return self._link
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._done_connecting)
        return await asyncio.shield(self._connecting)

    def _done_connecting(self, task: "asyncio.Task[_Link]") -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._link = task.result()

    async def _connect(self) -> "_Link":
        path, host, port = (self._options.get(name) for name in ("path", "host", "port"))
        if self._primary is not None:
            host, port = await self._primary.find()
        where = path or f"{host or 'localhost'}:{port or 6379}"
        loop = asyncio.get_running_loop()
        link = _Link(loop, self._timeout_s)
        try:
            async with asyncio.timeout(self._timeout_s):
                if path:
                    await loop.create_unix_connection(lambda: link, path)
                else:
                    await loop.create_connection(lambda: link, host or "localhost", port or 6379)
                await self._greet(link)
        except TimeoutError:
            link.break_off(StateTimeout("closed"))
            raise StateTimeout(f"no connection to {where} within {self._timeout_s:g} s") from None
        except OSError as error:
            raise StateUnreachable(f"{where}: {error}") from error
        except StateError as error:
            link.break_off(error)
            raise
        return link

    async def _greet(self, link: "_Link") -> None:
        user, password, number = (self._options.get(name) for name in ("username", "password", "db"))
        if password:
            await link.send(_packed("AUTH", *([user] if user else []), password))
        if number:
            await link.send(_packed("SELECT", number))


class _Link(asyncio.Protocol):
    """One connection. `broken`: why it is not to be used any more."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self.broken: StateError | None = None
        self._loop = loop
        self._timeout_s = timeout_s
        self._transport: asyncio.WriteTransport | None = None
        self._reader = hiredis.Reader(
            replyError=_reply_error, protocolError=StateUnreachable, notEnoughData=_NOTHING_YET
        )
        self._out: list[bytes] = []  # commands of this turn of the loop
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()  # (deadline, reply), as sent
        self._timer: asyncio.TimerHandle | None = None
        self._overdue: asyncio.Future[Any] | None = None

    def send(self, packed: bytes) -> "asyncio.Future[Any]":
        """The reply to one command, to come. Raises the reason when the connection is broken."""
        if self.broken is not None:
            raise self.broken
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append((self._loop.time() + self._timeout_s, future))
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._check)
        return future

    def break_off(self, reason: StateError) -> None:
        """Fail all who wait; nothing is sent or read any more. Harmless twice."""
        if self.broken is not None:
            return
        self.broken = reason
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(type(reason)(*reason.args))  # each with a traceback of its own
        self._waiting.clear()

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self.broken is None and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _check(self) -> None:
        """Whether the oldest command is overdue. It is given one more turn of the loop: after a pause of this process
        timers are served before what has arrived is read."""
        self._timer = None
        if not self._waiting:
            return
        deadline, oldest = self._waiting[0]
        left_s = deadline - self._loop.time()
        if left_s <= 0:
            if self._overdue is oldest:
                self.break_off(StateTimeout(f"no answer within {self._timeout_s:g} s"))
                return
            self._overdue, left_s = oldest, _GRACE_S
        self._timer = self._loop.call_later(left_s, self._check)

    # --- what asyncio calls --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self._transport = cast(asyncio.WriteTransport, transport)
        if self.broken is not None:  # given up meanwhile
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Replies, split anywhere, in the order of the commands."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOTHING_YET:
                self._answer(reply)
        except (StateUnreachable, IndexError) as error:  # not RESP, or more replies than commands
            self.break_off(StateUnreachable(f"not a Redis server: {error}"))

    def _answer(self, reply: Any) -> None:
        _, future = self._waiting.popleft()
        if isinstance(reply, StateError):
            if not future.done():
                future.set_exception(reply)
            if str(reply).startswith(_ELSEWHERE):
                self.break_off(StateUnreachable(str(reply)))
        elif not future.done():  # else its caller has gone
            future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server closed it, or it failed."""
        self.break_off(StateUnreachable(f"connection lost: {exc or 'closed by the server'}"))


def _packed(*command: Argument) -> bytes:
    return hiredis.pack_command(command)  # type: ignore[arg-type, no-any-return]  # its stub is for one argument


def _reply_error(text: str) -> StateError:
    return UnknownScript(text) if text.startswith("NOSCRIPT") else ErrorReply(text)
