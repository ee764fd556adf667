"""redis-py's clients, for what `pipe` does not speak: TLS, clusters, Sentinels, options of theirs in the URL.

In: a URL. Out: a client with the errors of `extproc.state`; who is the primary. Imported where a URL asks for it.
"""

from typing import Any, cast

from redis import exceptions as theirs
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from extproc.state import TIMEOUT_S, ErrorReply, StateError, StateTimeout, StateUnreachable, UnknownScript
from extproc.state.address import SENTINEL_SCHEMES, Address, of_sentinels

MAX_CONNECTIONS = 16  # per process; more callers wait, at most the time-out
# The first that fits.
_OURS: tuple[tuple[type[Exception], type[StateError]], ...] = (
    (theirs.NoScriptError, UnknownScript),
    (theirs.ResponseError, ErrorReply),
    (theirs.TimeoutError, StateTimeout),
    (theirs.ConnectionError, StateUnreachable),
    (Exception, StateError),
)


class _Translating:
    """Mixed into a client of theirs."""

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        """The reply. Raises StateError, OSError."""
        try:
            return await super().execute_command(*command, **options)  # type: ignore[misc]
        except (theirs.RedisError, theirs.RedisClusterException) as error:
            raise _ours(error) from error


class Client(_Translating, Redis):  # type: ignore[misc]  # their bases contradict one another
    """Of one server, or of the one that is the primary."""

    one_server = True


class ClusterClient(_Translating, RedisCluster):  # type: ignore[misc]
    """Of a cluster."""

    one_server = False


class Primary:
    """Which server is the primary: asked of Redis or Valkey Sentinels, anew for each connection. Until they have made a
    new primary of a replica the state is away, and `state.on_outage` decides. `timeout_s`: of each wait for them."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._bounds = _bounds(timeout_s)
        login = {"password": address.sentinel_password} if address.sentinel_password else {}
        self._sentinel = Sentinel(list(address.sentinels), sentinel_kwargs=self._bounds | login)  # type: ignore[no-untyped-call]

    async def find(self) -> tuple[str, int]:
        """Host and port. Raises StateError when no Sentinel knows one."""
        try:
            host, port = await self._sentinel.discover_master(self._address.name)
        except theirs.RedisError as error:
            raise _ours(error) from error
        return str(host), int(port)

    def client(self, **options: Any) -> Client:
        """A client whose connections each find it."""
        client: Client = self._sentinel.master_for(
            self._address.name, redis_class=Client, **self._address.server, **self._bounds, **options
        )
        return client

    async def aclose(self) -> None:
        """Close the connections to the Sentinels."""
        for sentinel in self._sentinel.sentinels:
            await sentinel.aclose()


def connect(
    url: str, *, timeout_s: float = TIMEOUT_S, max_connections: int = MAX_CONNECTIONS
) -> Client | ClusterClient:
    """A client for `redis://`, `rediss://` or `unix://`, for a cluster by `redis+cluster://`, `rediss+cluster://`, or
    for the primary that Sentinels know by `redis+sentinel://`, `rediss+sentinel://`.

    No I/O yet. Every wait (for a free connection, to connect, for an answer) ends after `timeout_s`. On a broken
    connection a command is sent once more, which our scripts allow: they are idempotent.
    """
    once_more = Retry(NoBackoff(), 1, supported_errors=(theirs.ConnectionError,))
    bounds = _bounds(timeout_s)
    scheme, _, rest = url.partition("://")
    if scheme.endswith("+cluster"):
        options = {"retry": once_more, "max_connections": max_connections, **bounds}
        return cast(ClusterClient, ClusterClient.from_url(f"{scheme.removesuffix('+cluster')}://{rest}", **options))
    if scheme in SENTINEL_SCHEMES:
        return Primary(of_sentinels(url), timeout_s).client(retry=once_more, max_connections=max_connections)
    pool = BlockingConnectionPool.from_url(
        url, timeout=timeout_s, max_connections=max_connections, retry=once_more, **bounds
    )
    return Client(connection_pool=pool)


def _ours(error: Exception) -> StateError:
    return next(ours for kind, ours in _OURS if isinstance(error, kind))(str(error))


def _bounds(timeout_s: float) -> dict[str, Any]:
    return {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "protocol": 2}
