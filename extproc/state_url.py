"""The URL of a state behind Redis or Valkey Sentinels, taken apart.

In: `redis+sentinel://[user:password@]host[:26379],host…/name[/database]`, or `rediss+sentinel://` for TLS to the
servers; `?sentinel_password=…` where the Sentinels have one. Out: an `Address`, for `extproc.primary`.
"""

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
_PORT = 26379


class Address(msgspec.Struct, frozen=True):
    """What such a URL says. `server`: how to log in at the primary, as redis-py names it."""

    sentinels: tuple[tuple[str, int], ...]
    name: str
    server: dict[str, Any]
    sentinel_password: str | None = None


def parse(url: str) -> Address:
    """Take the URL apart. Raises ValueError where the name, a host or a number is missing."""
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    name, _, database = parts.path.strip("/").partition("/")
    server: dict[str, Any] = {"db": int(database or 0)}
    server |= {"username": unquote(username)} if username else {}
    server |= {"password": unquote(password)} if password else {}
    server |= {"ssl": True} if parts.scheme.startswith("rediss") else {}
    if not name or not all(hosts.split(",")):
        raise ValueError("must be redis+sentinel://host[:port],host[:port]/name-of-the-primary[/database]")
    sentinel_password = parse_qs(parts.query).get("sentinel_password", [None])[0]
    return Address(tuple(_host(text) for text in hosts.split(",")), name, server, sentinel_password)


def _host(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or _PORT
