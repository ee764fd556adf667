"""The ext_proc service: a session for each of Envoy's gRPC streams, one per HTTP request, around an exchange; and
beside it the one for answers that were to pass without (`passing`).

In: the exchange's messages. Out: its replies, in order. Served by either transport.
"""

import asyncio
from collections.abc import Coroutine, Generator
from functools import partial
from types import CoroutineType
from typing import Any, cast

from extproc.body.pieces import Body
from extproc.exchange import passing
from extproc.exchange.answering import Options
from extproc.exchange.exchange import Exchange
from extproc.exchange.live import Live
from extproc.exchange.states import State
from extproc.pipeline import Pipeline
from extproc.transport.session import Reply, Service, Services

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
_LAST_WORDS: set[asyncio.Task[None]] = set()  # a loop keeps no task alive by itself
MAX_MESSAGE_BYTES = 80 * 1024 * 1024  # above Envoy's buffers, so that what is too large is for them to say


class Chosen:
    """The options of exchanges that begin now; a running one keeps its own."""

    def __init__(self, options: Options) -> None:
        self.now = options

    def use(self, options: Options) -> None:
        """Go by `options` from the next exchange on."""
        self.now = options


def services(pipeline: Pipeline, options: Chosen, live: Live) -> Services:
    """What a worker serves."""
    return {
        METHOD: Service(lambda: ExtProcSession(Exchange(pipeline, live, options.now)), MAX_MESSAGE_BYTES),
        passing.METHOD: passing.service(live),
    }


class ExtProcSession:
    """One HTTP request."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    @property
    def done(self) -> bool:
        """Whether the exchange has nothing more to say."""
        return self._exchange.state is State.DONE

    def receive(self, message: Body) -> Reply | Coroutine[Any, Any, Reply]:
        """What to say to one message; of a whole request that waits for the shared state, else it is made at once."""
        reply = self._exchange.receive(message)
        if not isinstance(reply, CoroutineType):
            return reply
        return reply if self._exchange.state is State.READING else _begin(reply)  # a look-up's deadline needs a task

    def finish(self) -> None:
        """Envoy has nothing more to ask."""

    def close(self) -> None:
        """Envoy ended the stream, or we did."""
        last = self._exchange.close()
        if last is not None:
            task = asyncio.get_running_loop().create_task(last)
            _LAST_WORDS.add(task)
            task.add_done_callback(_LAST_WORDS.discard)


def _begin(reply: Coroutine[Any, Any, Reply]) -> Reply | Coroutine[Any, Any, Reply]:
    """Run a coroutine up to where it waits, which is mostly its end. It must not ask which task it runs in."""
    try:
        waits_for = reply.send(None)
    except StopIteration as stop:
        return cast(Reply, stop.value)
    return _go_on(_Begun(reply, waits_for))


async def _go_on(begun: "_Begun") -> Reply:
    return await begun


class _Begun:
    """A coroutine that waits already."""

    def __init__(self, coroutine: Coroutine[Any, Any, Reply], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Reply]:
        waits_for = self._waits_for
        while True:
            try:
                sent = yield waits_for
            except BaseException as error:
                step = partial(self._coroutine.throw, error)
            else:
                step = partial(self._coroutine.send, sent)
            try:
                waits_for = step()
            except StopIteration as stop:
                return cast(Reply, stop.value)
