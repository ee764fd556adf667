"""The simulator's process: sockets, timing, control endpoints and `main`.

In: HTTP/1.1 requests in any of the three formats, told apart by path. Out: what `openai`, `anthropic` or `google` make
of the answer, written as the plan of `wire` says. Who starts it: `gateway demo`, the supervisor for providers without a
credential, tests and benchmarks (`DemoProvider`, in process).

    GET  /_demo/stats    counters and the last requests (`stats`)       DELETE resets
    GET  /_demo/faults   the rules in force (`faults.Rule`)             PUT replaces them by one rule or a list, DELETE
    GET  /healthz        200

A plain asyncio protocol, because the faults are about sockets (resets, answers before the body was read, single
bytes), and because a load test should spend its CPU elsewhere.
"""

import asyncio
import contextlib
import email.utils
import errno
import hashlib
import logging
import os
import signal
import socket
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import click
import msgspec

from control.demo import faults as fault
from control.demo import google, wire
from control.demo.anthropic import Anthropic
from control.demo.base import Format, Meta, Refused
from control.demo.faults import Faults, RuleBook
from control.demo.google import Google
from control.demo.openai import OpenAI
from control.demo.stats import Record, Stats
from control.demo.text import Answer, Ask, PromptCache, Shape, compose
from control.demo.wire import Plan, Reply, Request

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
EARLY_SCAN_BYTES = 64 * 1024  # how much of an unfinished body is searched for an early_answer marker
BATCH_PARTS = 512  # writes joined into one when there is no gap between them
RESET_DELAY_S = 0.02  # between the last write and the RST, which would overtake data still being sent

_log = logging.getLogger(__name__)
_FORMATS: tuple[Format, ...] = (OpenAI(), Anthropic(), Google())
_OPENAI, _ANTHROPIC, _GOOGLE = _FORMATS
_CONTROL_HEADERS = (b"content-type: application/json",)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a simulator behaves by default."""

    faults: Faults = fault.NONE
    seed: int = 0
    api_key: str | None = None  # asked of every request, in the format's own header
    recent: int = 200  # request summaries kept
    record_bodies: bool = False  # show request bodies in the summaries


class Simulator:
    """What all connections share: options, rules, counters, and the walk from a request to a plan."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.rules = RuleBook(options.seed)
        self.stats = Stats(options.recent)
        self.connections: set[Connection] = set()
        self._cache = PromptCache()
        self._count = 0

    def early(self, request: Request, fmt: Format) -> Plan | None:
        """The plan that answers as soon as the head is there, if a default or a rule asks for that."""
        if not (self.options.faults.early_answer or self.rules.any_early):
            return None
        model = request.path.rpartition("/models/")[2].partition(":")[0] if fmt is _GOOGLE else None
        return self._early(fmt, self.rules.apply(self.options.faults, fmt.name, model, early=True))

    def early_by_marker(self, fmt: Format, seen: bytes) -> Plan | None:
        """The plan that answers before the body is whole, if a marker at its beginning asks for that."""
        faults = fault.NONE
        if b"early_answer" in seen:
            with contextlib.suppress(ValueError):
                faults = fault.by_marker(seen.decode(errors="ignore"), fmt.name, "")
        return self._early(fmt, faults)

    def _early(self, fmt: Format, faults: Faults) -> Plan | None:
        if not faults.early_answer:
            return None
        return wire.plan(self._error(fmt, faults), faults, keep_alive=not faults.early_close)

    def answer(self, request: Request, body: bytes, record: Record) -> Plan:
        """The plan for a whole request; fills in `record`."""
        keep_alive = request.headers.get("connection", "").lower() != "close"
        fmt = format_of(request)
        if fmt is None:
            return wire.plan(self._plain(request, body), fault.NONE, keep_alive=keep_alive)
        faults = self.options.faults
        try:
            if self.options.api_key is not None:
                fmt.authorize(request, self.options.api_key)
            ask = fmt.read(request, body)
            faults = self._faults_for(ask)
            record.model, record.stream = ask.model, ask.stream
            reply = self._error(fmt, faults) if faults.is_error else self._reply(fmt, request, ask, faults, record)
        except Refused as refused:
            reply = fmt.failure(refused, self._meta())
        except Exception:
            _log.exception("the simulator could not answer")
            reply = fmt.failure(Refused(500, "The simulator could not answer; see its log."), self._meta())
        return wire.plan(reply, faults, keep_alive=keep_alive and not faults.early_close)

    def too_large(self, request: Request) -> Plan:
        """413 in the format's shape."""
        fmt = format_of(request) or _OPENAI
        refused = Refused(413, "Request exceeds the maximum size")
        return wire.plan(fmt.failure(refused, self._meta()), fault.NONE, keep_alive=False)

    def _faults_for(self, ask: Ask) -> Faults:
        faults = self.rules.apply(self.options.faults, ask.format, ask.model)
        faults = fault.by_model(ask.model).over(faults)
        try:
            return fault.by_marker(ask.user, ask.format, ask.model).over(faults)
        except ValueError as error:
            raise Refused(400, str(error)) from None

    def _reply(self, fmt: Format, request: Request, ask: Ask, faults: Faults, record: Record) -> Reply:
        shape = Shape(
            seed=self.options.seed,
            chunks=faults.chunks,
            huge=faults.huge,
            cached_tokens=faults.cached_tokens,
            reasoning_tokens=faults.reasoning_tokens,
            input_bytes_per_token=faults.input_bytes_per_token,
        )
        answer: Answer = compose(ask, shape, self._cache)
        reply = fmt.reply(ask, answer, self._meta(), faults)
        record.prompt_tokens, record.output_tokens = answer.prompt_tokens, answer.output_tokens
        record.reasoning_tokens = answer.reasoning_tokens
        if fmt is _GOOGLE and ask.stream and "alt=sse" not in request.query:
            return google.as_array(reply)
        return reply

    def _error(self, fmt: Format, faults: Faults) -> Reply:
        status = faults.status or 503
        message = faults.message or f"The simulator was asked to answer {status}."
        refused = Refused(status, message, kind=faults.error_type, retry_after=faults.retry_after)
        reply = fmt.failure(refused, self._meta())
        headers = [*reply.headers]
        if faults.retry_after is not None:
            headers.append(b"retry-after: " + _retry_after(faults.retry_after).encode())
        if faults.retry_after_ms is not None:
            headers.append(b"retry-after-ms: %d" % faults.retry_after_ms)
        frames = reply.frames
        if faults.body is not None:
            frames = [faults.body.encode()]
            headers[0] = b"content-type: " + (faults.content_type or "text/html").encode()
        return Reply(status=status, headers=tuple(headers), frames=frames, weights=[0])

    def _meta(self) -> Meta:
        self._count += 1
        unique = hashlib.blake2b(b"%d:%d" % (self.options.seed, self._count), digest_size=16).hexdigest()
        return Meta(unique, int(time.time()))

    def _plain(self, request: Request, body: bytes) -> Reply:
        """Everything that is no completion: control, health, models."""
        match (request.method, request.path):
            case ("GET", "/healthz"):
                return _json({"status": "ok"})
            case ("GET", "/_demo/stats"):
                return _json(self.stats.report())
            case ("DELETE", "/_demo/stats"):
                self.stats.clear()
                self._cache.clear()
                return _json({"status": "reset"})
            case ("PUT", "/_demo/faults"):
                return self._set_rules(body)
            case ("DELETE", "/_demo/faults"):
                self.rules.set([])
                return _json({"rules": []})
            case ("GET", "/_demo/faults"):
                return _json({"rules": self.rules.rules})
        models = request.path.rpartition("/models")
        if request.method == "GET" and models[1]:
            return _models(request, models[2].removeprefix("/"))
        text = f"Unknown request URL: {request.method} {request.path}."
        return _OPENAI.failure(Refused(404, text, code="unknown_url"), self._meta())

    def _set_rules(self, body: bytes) -> Reply:
        try:
            self.rules.set(fault.read_rules(body))
        except ValueError as error:
            return _json({"error": str(error)}, 400)
        return _json({"rules": self.rules.rules})


def format_of(request: Request) -> Format | None:
    """The format a completion request speaks, by its path; None for anything else."""
    if request.method != "POST":
        return None
    if request.path.endswith("/chat/completions"):
        return _OPENAI
    if request.path.endswith("/messages"):
        return _ANTHROPIC
    return _GOOGLE if request.path.endswith((":generateContent", ":streamGenerateContent")) else None


def _json(value: Any, status: int = 200) -> Reply:
    return Reply(status=status, headers=_CONTROL_HEADERS, frames=[msgspec.json.encode(value)], weights=[0])


def _models(request: Request, name: str) -> Reply:
    """The list of models, or one, in the shape of the format that the path and headers speak."""
    known = {
        "openai": ["gpt-4o", "gpt-4o-mini"],
        "anthropic": ["claude-haiku-4-5-latest"],
        "google": ["gemini-2.5-flash"],
    }
    date = "2025-01-02T03:04:05Z"
    if "/v1beta/" in request.path:
        items = [{"name": f"models/{item}", "displayName": item} for item in ([name] if name else known["google"])]
        return _json(items[0] if name else {"models": items})
    if "anthropic-version" in request.headers:
        names = [name] if name else known["anthropic"]
        found = [{"type": "model", "id": item, "display_name": item, "created_at": date} for item in names]
        ends = {"has_more": False, "first_id": names[0], "last_id": names[-1]}
        return _json(found[0] if name else {"data": found} | ends)
    names = [name] if name else known["openai"]
    listed = [{"id": item, "object": "model", "created": 1_735_787_045, "owned_by": "demo"} for item in names]
    return _json(listed[0] if name else {"object": "list", "data": listed})


def _retry_after(value: str) -> str:
    """The header's value: as it is, or the HTTP date in N seconds for `date:N`."""
    if value.startswith("date:"):
        return email.utils.formatdate(time.time() + float(value[5:]), usegmt=True)
    return value


class Connection(asyncio.Protocol):
    """One client connection: reads a request, plays its plan, and again."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._request: Request | None = None  # whose head has been read
        self._body = _Body(0)
        self._record: Record | None = None
        self._early = False  # the request was answered before its body was read
        self._plan: Plan | None = None  # being played
        self._next = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._paused = False
        self._writable = True
        self._stalled = False  # a write is due and waits until the client reads

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._simulator.connections.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._simulator.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._record is not None:
            self._finish("aborted_by_client")

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._stalled:
            self._stalled = False
            self._step()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._plan is None or self._early:
            self._advance()
        elif len(self._buffer) > MAX_HEAD_BYTES and not self._paused:
            self._paused = True  # a pipelined request waits for the answer before it
            self._transport.pause_reading()

    def close(self) -> None:
        """Drop the connection at once."""
        self._transport.abort()

    # -- reading

    def _advance(self) -> None:
        """Read on: the head, then the body, then answer."""
        if self._request is None and not self._read_head():
            return
        request = self._request
        if request is None:
            return
        try:
            whole = self._body.feed(self._buffer)
        except ValueError:
            self._refuse(400)
            return
        if not whole:
            self._look_for_marker(request)
        elif self._early:
            self._early, self._request = False, None
            if self._plan is None and self._buffer:
                self._advance()
        else:
            self._answer(request)

    def _answer(self, request: Request) -> None:
        self._request = None
        if self._body.too_large:
            self._play(self._simulator.too_large(request))
            return
        body = self._body.take()
        record = self._record = self._record or Record(head=b"")
        record.body_bytes = len(body)
        if self._simulator.options.record_bodies and body:
            record.body = body
        self._play(self._simulator.answer(request, body, record))

    def _read_head(self) -> bool:
        """Whether a whole head was there."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                self._refuse(431)
            return False
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        try:
            request = wire.parse_head(head)
            self._body = _Body.of(request)
        except ValueError:
            self._refuse(400)
            return False
        self._begin(request, head)
        return True

    def _begin(self, request: Request, head: bytes) -> None:
        self._request = request
        self._record = Record(head=head)
        fmt = format_of(request)
        if fmt is not None:
            self._record.format = fmt.name
            self._simulator.stats.begin(self._record)
            self._play_early(self._simulator.early(request, fmt))
        if "expect" in request.headers and not self._early:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _look_for_marker(self, request: Request) -> None:
        fmt = format_of(request)
        if fmt is not None and not self._early:
            seen = self._body.seen(self._buffer, EARLY_SCAN_BYTES)
            self._play_early(self._simulator.early_by_marker(fmt, seen))

    def _play_early(self, plan: Plan | None) -> None:
        if plan is not None:
            self._early = True
            self._play(plan)

    def _refuse(self, status: int) -> None:
        self._buffer.clear()
        self._transport.write(b"HTTP/1.1 %d Bad\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status)
        self._transport.close()

    # -- writing

    def _play(self, plan: Plan) -> None:
        self._plan = plan
        self._next = 0
        if self._record is not None:
            self._record.sent_weights = plan.weights
            self._record.status = plan.status
        if plan.first_byte_s > 0:
            self._timer = self._loop.call_later(plan.first_byte_s, self._start)
        else:
            self._start()

    def _start(self) -> None:
        plan = self._plan
        if plan is None:
            return
        if plan.gap_s is None and len(plan.parts) <= BATCH_PARTS:  # the common case: one write
            self._write(b"".join((plan.head, *plan.parts)))
            self._next = len(plan.parts)
            self._end()
            return
        first = plan.parts[:1]
        self._write(b"".join((plan.head, *first)))
        self._next = len(first)
        self._due = self._loop.time()
        self._schedule(plan)

    def _schedule(self, plan: Plan) -> None:
        """The next write, its gap after the one before; late ones follow at once, so that the rate holds."""
        if self._next >= len(plan.parts):
            self._end()
        elif plan.gap_s:
            self._due += plan.gap_s
            self._timer = self._loop.call_at(self._due, self._step)
        else:
            self._timer = self._loop.call_soon(self._step)

    def _step(self) -> None:
        plan = self._plan
        if plan is None or self._transport.is_closing():
            return
        if not self._writable:
            self._stalled = True
            return
        count = 1 if plan.gap_s is not None else BATCH_PARTS
        self._write(b"".join(plan.parts[self._next : self._next + count]))
        self._next = min(self._next + count, len(plan.parts))
        self._schedule(plan)

    def _write(self, data: bytes) -> None:
        if data:
            self._transport.write(data)
            if self._record is not None:
                self._record.bytes_sent += len(data)

    def _end(self) -> None:
        """All parts are written: keep the connection, or end it as planned."""
        plan = self._plan
        if plan is None or plan.end == "hang":
            return
        if plan.end == "reset":
            self._timer = self._loop.call_later(RESET_DELAY_S if plan.head else 0, self._reset)
            return
        self._finish("completed" if plan.whole else "faulted")
        if plan.end == "close":
            self._transport.close()
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._buffer and not self._early:
            self._timer = self._loop.call_soon(self._advance)

    def _reset(self) -> None:
        """RST instead of FIN (on a unix socket there is no such thing: the peer sees the end)."""
        self._finish("faulted")
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _finish(self, outcome: str) -> None:
        record, plan = self._record, self._plan
        self._record = self._plan = None
        if record is None:
            return
        record.sent_parts = self._next if plan is not None else 0
        if record.format:
            self._simulator.stats.end(record, outcome)


class _Body:
    """A request body being read: by length, or in chunks."""

    def __init__(self, length: int | None) -> None:
        self._length = length  # None: chunked
        self._data = bytearray()
        self.too_large = length is not None and length > MAX_BODY_BYTES

    @classmethod
    def of(cls, request: Request) -> "_Body":
        if "transfer-encoding" in request.headers:
            return cls(None)
        length = int(request.headers.get("content-length", "0"))
        if length < 0:
            raise ValueError("negative content-length")
        return cls(length)

    def feed(self, buffer: bytearray) -> bool:
        """Take what belongs to the body out of `buffer`; whether the body is whole (or too large to go on)."""
        if self.too_large:
            return True
        if self._length is not None:
            if len(buffer) < self._length:
                return False
            self._data = buffer[: self._length]
            del buffer[: self._length]
            return True
        done = self._feed_chunks(buffer)
        self.too_large = len(self._data) > MAX_BODY_BYTES
        return done or self.too_large

    def _feed_chunks(self, buffer: bytearray) -> bool:
        while (end := buffer.find(b"\r\n")) >= 0:
            size = int(bytes(buffer[:end]).partition(b";")[0], 16)
            if len(buffer) < end + 2 + size + 2:
                return False
            self._data += buffer[end + 2 : end + 2 + size]
            del buffer[: end + 2 + size + 2]
            if size == 0:
                return True
        return False

    def seen(self, buffer: bytearray, limit: int) -> bytes:
        """The beginning of an unfinished body, up to `limit` bytes."""
        return bytes((self._data or buffer)[:limit])

    def take(self) -> bytes:
        """The whole body."""
        data, self._data = bytes(self._data), bytearray()
        return data


class DemoProvider:
    """A simulator in this process: `async with DemoProvider() as demo: … demo.url …`.

    `listen`: `host:port` (port 0: a free one) or `unix:/path.sock`.
    """

    def __init__(self, listen: str = "127.0.0.1:0", options: Options | None = None) -> None:
        self.listen = listen
        self.simulator = Simulator(options or Options())
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
            return Connection(self.simulator)

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
        for connection in list(self.simulator.connections):
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


@click.command("demo")
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
    """Simulate the OpenAI, Anthropic and Google APIs, told apart by path, with faults on demand."""
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
