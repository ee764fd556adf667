"""When is the gateway ready: probes of each process, and then of the real listener.

In: the data directory's layout, the settings, the running children. Out: returns when a client's request would succeed;
raises `NotReadyError`, which names what is not up and shows the last lines it printed. Called by `gateway up`, once.
"""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import msgspec

from control.hello import exchange, speaks_http2
from control.supervise import Child
from extproc.paths import Paths
from extproc.process.http1 import Address, ask
from extproc.settings import Listen, Settings

_POLL_S = 0.05
_MOST_DEATHS = 3


class NotReadyError(Exception):
    """The gateway did not come up. One line, then the last lines of the process that is to blame."""


class Probe(msgspec.Struct, frozen=True):
    """`passes` answers whether process `child` does `what`; an OSError or a timeout is a no."""

    child: str
    what: str
    passes: Callable[[], Awaitable[bool]]


def state_probe(paths: Paths) -> Probe:
    """Valkey answers."""
    return Probe("valkey", "answers PING", partial(_pings, paths.valkey_socket))


def probes(settings: Settings, paths: Paths) -> list[Probe]:
    """Every process but Valkey, then the listener as a client sees it."""
    # A request without a key is refused by a worker: a new connection each, so that every worker has its turn.
    passes = partial(_answers_each_time, paths.inside_socket, "/v1/models", 401, 2 * settings.workers)
    return [
        *extproc_probes(settings, paths),
        Probe("control", "answers /readyz", partial(_answers, paths.control_socket, "/readyz", 200)),
        Probe("envoy", "has its configuration", partial(_answers, paths.admin_socket, "/ready", 200)),
        Probe("envoy", "answers /readyz", partial(_answers, paths.inside_socket, "/readyz", 200)),
        *_entrances(settings.listen),
        Probe("envoy", "reaches the workers", passes),
    ]


def extproc_probes(settings: Settings, paths: Paths) -> list[Probe]:
    """The workers, the settler and the simulator, by themselves."""
    simulated = any(provider.is_demo for provider in settings.providers.values())
    return [
        *(
            Probe(f"worker {index}", "serves gRPC", partial(speaks_http2, paths.worker_socket(index)))
            for index in range(settings.workers)
        ),
        Probe("settler", "serves gRPC", partial(speaks_http2, paths.settler_socket)),
        *([Probe("demo", "listens", partial(_connects, paths.demo_socket))] if simulated else []),
    ]


def _entrances(listen: Listen) -> Iterator[Probe]:
    """Where clients come in. Whether they may (an address, a certificate) is not the question."""
    if listen.port is not None:
        address = (listen.host, listen.port)
        passes = partial(_speaks_tls, address) if listen.tls else partial(_answers, address, "/readyz", 200)
        what = "speaks TLS" if listen.tls else "answers /readyz"
        yield Probe("envoy", f"{what} on {listen.host}:{listen.port}", passes)
    if listen.unix_socket is not None:
        path = listen.unix_socket
        yield Probe("envoy", f"answers /readyz on {path}", partial(_answers, path, "/readyz", 200))


async def until_ready(
    wanted: list[Probe], children: Mapping[str, Child], timeout_s: float, *, began_s: float | None = None
) -> None:
    """Return when every probe passes, in order. Raises NotReadyError `timeout_s` after `began_s` (default: now; of the
    monotonic clock), or if a child keeps ending."""
    waiting = list(wanted)
    try:
        async with asyncio.timeout_at((time.monotonic() if began_s is None else began_s) + timeout_s):
            while waiting:
                if await _passes(waiting[0]):
                    waiting.pop(0)
                    continue
                for child in children.values():
                    if child.deaths >= _MOST_DEATHS:
                        raise NotReadyError(_with_tail(f"{child.process.name} keeps ending ({child.last_end})", child))
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        missing = [probe for probe in waiting if not await _passes(probe)] or waiting
        texts = "; ".join(f"{probe.child} {probe.what}: no" for probe in missing)
        line = f"not ready after {timeout_s:g} s: {texts}"
        raise NotReadyError(_with_tail(line, children.get(missing[0].child))) from None


def _with_tail(line: str, child: Child | None) -> str:
    if child is None or not child.lines.tail:
        return line
    tail = "\n".join(f"  {text}" for text in child.lines.tail)
    return f"{line}\nlast lines of {child.process.name}:\n{tail}"


async def _passes(probe: Probe) -> bool:
    try:
        return await probe.passes()
    except (OSError, TimeoutError):
        return False


async def _pings(path: Path) -> bool:
    return (await exchange(path, b"PING\r\n", 5)) == b"+PONG"


async def _connects(path: Path) -> bool:
    await exchange(path, b"", 0)
    return True


async def _speaks_tls(address: tuple[str, int]) -> bool:
    """A handshake of TLS 1.3, in which a client's certificate is asked for after the client believes to be through."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # whether it listens, not who it is
    async with asyncio.timeout(1.0):
        _, writer = await asyncio.open_connection(*address, ssl=context)
    writer.close()
    return True


async def _answers(address: Address, path: str, wanted: int) -> bool:
    status, _ = await ask(address, path)
    return status == wanted


async def _answers_each_time(address: Address, path: str, wanted: int, times: int) -> bool:
    return all([await _answers(address, path, wanted) for _ in range(times)])
