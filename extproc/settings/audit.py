"""Where audit rows are kept for reading: beside the gateway, or in one database for all replicas."""

from typing import Annotated, Literal
from urllib.parse import SplitResult, parse_qs, urlsplit

from pydantic import AfterValidator, Field

from extproc.settings.fields import Section

EMBEDDED = "embedded"


def _address(value: str) -> str:
    # The text of what is wrong never quotes the value: it holds a password.
    if value == EMBEDDED:
        return value
    try:
        parts = urlsplit(value)
        known = parts.scheme in ("postgresql", "postgres") and parts.netloc.count("@") <= 1
        complete = known and (parts.port or True) and _host(parts) and parts.path.strip("/") and not parts.fragment
    except ValueError:
        complete = False
    if not complete:
        raise ValueError(
            "must be `embedded` or such as postgresql://user:password@host:5432/database"
            " (special characters of a password as %40)"
        )
    return value


def _host(parts: SplitResult) -> str | None:
    """Name of the server, or the directory of its socket."""
    return parts.hostname or next(iter(parse_qs(parts.query).get("host", ())), None)


class Audit(Section):
    """`embedded`: in the journal, SQLite under `data_dir`. With the URL of a PostgreSQL database rows are copied there,
    and read from there, so that many replicas show them together."""

    url: Annotated[str, AfterValidator(_address)] = Field(default=EMBEDDED, repr=False)
    partition: Literal["day", "week", "month"] = Field(
        default="week", description="of PostgreSQL's tables; what is older than `retention` goes by whole partitions"
    )

    @property
    def shared(self) -> bool:
        """Whether rows are copied to a database of many replicas."""
        return self.url != EMBEDDED

    @property
    def encrypted(self) -> bool:
        """Whether the connection is, whatever the server says; or stays on this machine."""
        modes = parse_qs(urlsplit(self.url).query).get("sslmode", [])
        host = _host(urlsplit(self.url)) or ""
        local = host.startswith("/") or host in ("localhost", "127.0.0.1", "::1")
        return local or modes[-1:] in (["require"], ["verify-ca"], ["verify-full"])

    @property
    def place(self) -> str:
        """Host, port and database, and nothing that is secret."""
        parts = urlsplit(self.url)
        port = f":{parts.port}" if parts.port else ""
        return f"{_host(parts)}{port}/{parts.path.strip('/')}" if self.shared else EMBEDDED
