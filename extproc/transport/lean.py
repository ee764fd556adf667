"""The lean transport: `Calls` on unix sockets, under asyncio. For the one peer that matters, our own Envoy.

In: connections. Out: what their calls answer; everything that one read makes leaves in one write. A peer that does not
read is not read from. Nothing here knows what is said.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, cast

from extproc.transport.calls import Calls
from extproc.transport.connection import Connection
from extproc.transport.credit import Budget
from extproc.transport.frame import Code
from extproc.transport.session import Reply, Services

log = logging.getLogger(__name__)

LARGE_MESSAGES_BYTES = 256 * 1024 * 1024  # on their way at once, above what fits the streams' windows
_ABORT_S = 1.0
_UNWRITTEN_BYTES = 1024 * 1024  # before a peer is no longer read from


class LeanServer:
    """Serves services on a unix socket."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._budget = Budget(LARGE_MESSAGES_BYTES)
        self._peers: set[_Peer] = set()
        self._server: asyncio.Server | None = None

    async def start(self, socket: Path) -> None:
        """Bind and serve. Raises OSError if the socket cannot be bound."""
        self._server = await asyncio.get_running_loop().create_unix_server(self.connected, str(socket))

    def connected(self) -> asyncio.Protocol:
        """What serves a new connection."""
        return _Peer(self._services, self._budget, self._peers)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, let running ones finish for up to `grace_s`, then end them."""
        if self._server is not None:
            self._server.close()
        for peer in list(self._peers):
            peer.drain()
        await self._gone(grace_s)
        for peer in list(self._peers):
            peer.abort()
        await self._gone(_ABORT_S)

    async def _gone(self, at_most_s: float) -> None:
        if self._peers:
            await asyncio.wait([peer.gone for peer in self._peers], timeout=at_most_s)


class _Peer(asyncio.Protocol):
    """One connection, and the event loop as its calls see it."""

    def __init__(self, services: Services, budget: Budget, peers: set["_Peer"]) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = Connection(self._loop.time)
        self._calls = Calls(self._connection, services, self, budget)
        self._peers = peers
        self._writing = True  # the peer reads what is written
        self._going_on = False  # and soon gets more of it
        self._transport = cast(asyncio.Transport, None)  # until connected
        self.gone: asyncio.Future[None] = self._loop.create_future()

    # --- asyncio -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(_UNWRITTEN_BYTES)
        self._peers.add(self)
        self.wake()

    def data_received(self, data: bytes) -> None:
        try:
            self._calls.receive(data)
        except Exception:
            log.exception("connection failed")
            self._connection.close(Code.INTERNAL_ERROR, "internal error")
            self._calls.abandon()
        self.wake()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._connection.closed = True
        self._calls.abandon()
        self._peers.discard(self)
        if not self.gone.done():
            self.gone.set_result(None)

    def pause_writing(self) -> None:
        self._writing = False
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._writing = True
        self._transport.resume_reading()
        self.wake()

    # --- the scheduler -------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Write what there is; hang up when there is nothing more to come."""
        sender = self._connection.sender
        out = sender.take()
        if out and not self._transport.is_closing():
            if type(out[-1]) is memoryview:  # a turn of a long message: not copied once more
                self._transport.writelines(out)
            else:
                self._transport.write(b"".join(out))
        if sender.waiting and self._writing and not self._going_on:
            self._going_on = True
            self._loop.call_soon(self._act, self._go_on)
        if self._connection.closed or self._connection.drained:
            self._transport.close()

    def spawn(
        self, work: Coroutine[Any, Any, Reply], done: Callable[[Reply | BaseException], None]
    ) -> asyncio.Task[Reply]:
        """Run `work` as a task."""
        task = self._loop.create_task(work)
        task.add_done_callback(partial(self._spawned, done))
        return task

    def later(self, seconds: float, action: Callable[[], None]) -> asyncio.TimerHandle:
        """A deadline."""
        return self._loop.call_later(seconds, self._act, action)

    def _spawned(self, done: Callable[[Reply | BaseException], None], task: asyncio.Task[Reply]) -> None:
        done(asyncio.CancelledError() if task.cancelled() else task.exception() or task.result())
        self.wake()

    def _go_on(self) -> None:
        self._going_on = False
        self._calls.go_on()

    def _act(self, action: Callable[[], None]) -> None:
        action()
        self.wake()

    # --- the server ----------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Ask the peer to go elsewhere; hang up after the last call."""
        self._connection.drain()
        self.wake()

    def abort(self) -> None:
        """End every call now."""
        self._calls.abandon()
        self._connection.close(Code.NO_ERROR, "shutting down")
        self.wake()
        self._transport.abort()
