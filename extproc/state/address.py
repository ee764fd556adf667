"""The URL of the shared state, taken apart.

In: `redis://[user:password@]host[:6379][/database]` or `unix:///path`, of one server. Or, of one behind Redis or Valkey
Sentinels, `redis+sentinel://[user:password@]host[:26379],host…/name[/database]`, `rediss+sentinel://` for TLS to the
servers, `?sentinel_password=…` where the Sentinels have one. Out: how to reach and log in at the one; an `Address`.
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


def of_server(url: str) -> dict[str, Any] | None:
    """`path` or `host` and `port`, `username`, `password`, `db`, as far as the URL says; None for one that says more
    than that, or is not of one server in plain text."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if parts.scheme not in ("unix", "redis") or query.keys() - {"db"}:
        return None
    path = unquote(parts.path)
    database = query["db"][0] if "db" in query else path.strip("/") if parts.scheme == "redis" else ""
    found = {
        "path": path if parts.scheme == "unix" else None,
        "host": parts.hostname,
        "port": parts.port,
        "username": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "db": int(database) if database.isdigit() else None,
    }
    return {name: value for name, value in found.items() if value}


def of_sentinels(url: str) -> Address:
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
