"""Failed authentications by source address: answered 429 instead of 401 when there are too many. Pure.

In: the x-forwarded-for header of a request whose key was refused, the time. Out: the error to answer with. Looked at
only after a key was refused, so a good key passes whoever else shares its address, and costs nothing here. Each process
counts for itself, in bounded memory. Keys made here cannot be guessed at any rate; this is for the log, for keys that
people chose, and for clients that repeat a wrong key for ever.
"""

import ipaddress
import logging
from collections import OrderedDict

from extproc.errors import GatewayError, InvalidApiKey, MissingApiKey, RateLimitExceeded

log = logging.getLogger(__name__)

MOST = 30  # refusals of one address in one window of a process that are answered 401
WINDOW_S = 60.0
_ADDRESSES = 10_000  # remembered at most, about 2 MB; beyond, those not seen for longest go
_LONGEST_CHARS = 64
_V6_NETWORK_BITS = 64  # what one subscriber is given
_TOO_MANY = "Too many requests with a wrong API key came from this address. A valid key is served as ever."


class WrongKeys:
    """Counts refusals. `total`: all of them; `limited`: those answered 429."""

    def __init__(self, most: int = MOST, window_s: float = WINDOW_S, addresses: int = _ADDRESSES) -> None:
        self._most = most
        self._window_s = window_s
        self._addresses = addresses
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()  # when its window began, and how many since
        self.total = self.limited = 0

    def refusal(self, error: InvalidApiKey, forwarded_for: str, now_s: float, trusted_hops: int = 0) -> GatewayError:
        """What to answer with: `error`, or RateLimitExceeded."""
        self.total += 1
        if isinstance(error, MissingApiKey):  # our own probe of the workers has none
            return error
        address = source_of(forwarded_for, trusted_hops)
        began_s, count = self._seen.pop(address, (now_s, 0))
        if not began_s <= now_s < began_s + self._window_s:
            began_s, count = now_s, 0
        self._seen[address] = began_s, count + 1
        if len(self._seen) > self._addresses:
            self._seen.popitem(last=False)
        if count < self._most:
            return error
        self.limited += 1
        if count == self._most:
            log.warning("many failed authentications", extra={"address": address, "window_s": self._window_s})
        return RateLimitExceeded(_TOO_MANY, retry_after_s=began_s + self._window_s - now_s)

    def __len__(self) -> int:
        return len(self._seen)


def source_of(forwarded_for: str, trusted_hops: int = 0) -> str:
    """Who sent a request: the last address of x-forwarded-for, which is Envoy's own word, or the one that the last of
    `trusted_hops` proxies before it put there. Of IPv6 the network."""
    addresses = forwarded_for.rsplit(",", trusted_hops + 1)
    address = addresses[-1 - min(trusted_hops, len(addresses) - 1)].strip()[:_LONGEST_CHARS]
    try:
        network = ipaddress.IPv6Network((address, _V6_NETWORK_BITS), strict=False)
    except ValueError:
        return address
    return str(network)
