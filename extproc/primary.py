"""Which server is the primary: asked of Redis or Valkey Sentinels, anew for each connection.

In: an `Address`. Out: host and port, or a redis-py client that finds them. Until the Sentinels have made a new primary
of a replica the state is away, and `state.on_outage` decides.
"""

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel

from extproc.state_url import Address


class Primary:
    """Finds it. `bounds`: time-outs and the protocol, as redis-py names them."""

    def __init__(self, address: Address, bounds: dict[str, Any]) -> None:
        self._address = address
        self._bounds = bounds
        login = {"password": address.sentinel_password} if address.sentinel_password else {}
        self._sentinel = Sentinel(list(address.sentinels), sentinel_kwargs=bounds | login)  # type: ignore[no-untyped-call]

    async def find(self) -> tuple[str, int]:
        """Host and port. Raises redis-py's ConnectionError when no Sentinel knows one."""
        host, port = await self._sentinel.discover_master(self._address.name)
        return str(host), int(port)

    def client(self, **options: Any) -> Redis:
        """A client whose connections each find it."""
        client: Redis = self._sentinel.master_for(
            self._address.name, redis_class=Redis, **self._address.server, **self._bounds, **options
        )
        return client

    async def aclose(self) -> None:
        """Close the connections to the Sentinels."""
        for sentinel in self._sentinel.sentinels:
            await sentinel.aclose()
