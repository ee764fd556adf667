"""The simulator's process: sockets, timing, control endpoints and `main`.

In: HTTP/1.1 requests in any of the four formats, told apart by path. Out: what `openai`, `anthropic`, `google` or
`bedrock` make of the answer, written as the plan of `wire` says. Who starts it: `gateway demo`, the supervisor for
providers without a credential, tests and benchmarks (`DemoProvider`, in process).

    GET  /_demo/stats    counters and the last requests (`stats`)       DELETE resets
    PUT  /_demo/keys     a list of API keys: any of them is taken, and no other; empty: any at all
    GET  /_demo/faults   the rules in force (`faults.Rule`)             PUT replaces them by one rule or a list, DELETE
    GET  /healthz        200

A plain asyncio protocol, because the faults are about sockets (resets, answers before the body was read, single
bytes), and because a load test should spend its CPU elsewhere.
"""

import asyncio
import errno
import os
import signal
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click

from control.demo.connection import Connection
from control.demo.faults import Faults, RuleBook
from control.demo.simulator import Options, Simulator
from control.demo.stats import Stats


class DemoProvider:
    """A simulator in this process: `async with DemoProvider() as demo: … demo.url …`.

    `listen`: `host:port` (port 0: a free one) or `unix:/path.sock`.
    """

    def __init__(self, listen: str = "127.0.0.1:0", options: Options | None = None) -> None:
        self.listen = listen
        self.simulator = Simulator(options or Options())
        self.connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    @property
    def stats(self) -> Stats:
        """The counters."""
        return self.simulator.stats

    @property
    def rules(self) -> RuleBook:
        """The fault rules."""
        return self.simulator.rules

    @property
    def address(self) -> str:
        """`host:port` as bound, or `unix:/path`."""
        if self._server is None or self.listen.startswith("unix:"):
            return self.listen
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    @property
    def url(self) -> str:
        """The base URL, without a path."""
        return f"http://{'localhost' if self.listen.startswith('unix:') else self.address}"

    async def start(self) -> None:
        """Listen. Raises OSError if the address is taken."""
        loop = asyncio.get_running_loop()

        def connect() -> Connection:
            return Connection(self.simulator, self.connections)

        if self.listen.startswith("unix:"):
            path = Path(self.listen.removeprefix("unix:"))
            _claim(path)
            self._server = await loop.create_unix_server(connect, str(path), backlog=1024)
            return
        host, port = parse_address(self.listen)
        self._server = await loop.create_server(connect, host, port, backlog=1024)

    async def stop(self) -> None:
        """Stop listening and drop all connections."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self.connections):
            connection.close()
        await self._server.wait_closed()
        if self.listen.startswith("unix:"):
            _release(Path(self.listen.removeprefix("unix:")))
        self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def parse_address(listen: str) -> tuple[str, int]:
    """`host:port` or `[host]:port`. Raises ValueError."""
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{listen!r} is not host:port or unix:/path")
    return host.strip("[]"), int(port)


def _claim(path: Path) -> None:
    """Remove a socket file left behind by a dead process. Raises OSError if somebody listens on it.

    asyncio would remove it in either case, and take over from a living process.
    """
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        if probe.connect_ex(str(path)) in (0, errno.EAGAIN):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    _release(path)


def _release(path: Path) -> None:
    path.unlink(missing_ok=True)


async def serve(listen: str, options: Options) -> None:
    """Serve until SIGINT or SIGTERM; prints one `ready` line. Raises OSError if the address is taken."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stopped.set)
    async with DemoProvider(listen, options) as provider:
        click.echo(f"ready {provider.address if listen.startswith('unix:') else provider.url}")
        await stopped.wait()


class _Milliseconds(click.ParamType[float]):
    """`200ms`, `1.5s`, or a number of seconds, as in gateway.yaml."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        scale = 1.0 if text.endswith("ms") else 1000.0
        try:
            return float(text.removesuffix("ms").removesuffix("s")) * scale
        except ValueError:
            self.fail(f"{text!r} is not a duration: write 200ms, 1.5s or a number of seconds", param, ctx)


@click.command("demo", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--listen", default="127.0.0.1:9000", show_default=True, help="host:port or unix:/path.sock")
@click.option("--first-byte", type=_Milliseconds(), help="Wait before the first byte of an answer.")
@click.option("--chunk-interval", type=_Milliseconds(), help="Wait between the events of a stream.")
@click.option("--chunks", type=click.IntRange(1), help="Text events of an answer; by default it depends on the prompt.")
@click.option("--seed", type=int, default=0, show_default=True, help="Answers and chance follow from it.")
@click.option("--api-key", envvar="GATEWAY_DEMO_API_KEY", help="Asked of every request, in its format's header.")
@click.option("--record-bodies", is_flag=True, help="Show request bodies under /_demo/stats.")
def command(  # noqa: PLR0917 - click passes them by name
    listen: str,
    first_byte: float | None,
    chunk_interval: float | None,
    chunks: int | None,
    seed: int,
    api_key: str | None,
    record_bodies: bool,
) -> None:
    """Simulate the APIs of OpenAI, Anthropic, Google and Bedrock, told apart by path, with faults on demand.

    A DURATION is 200ms, 1.5s or a number of seconds.
    """
    import uvloop  # noqa: PLC0415 - not needed, and its loop not wanted, where DemoProvider is used in process

    faults = Faults(first_byte_ms=first_byte, chunk_interval_ms=chunk_interval, chunks=chunks)
    options = Options(faults=faults, seed=seed, api_key=api_key, record_bodies=record_bodies)
    try:
        uvloop.run(serve(listen, options))
    except (OSError, ValueError) as error:
        raise click.ClickException(f"cannot listen on {listen}: {error}") from None


def main(argv: list[str] | None = None) -> None:
    """The command line: `gateway demo …`, or `python -m control.demo.server …`. Exits."""
    command.main(args=argv, prog_name="gateway demo")


if __name__ == "__main__":
    main()
