"""Where the gateway listens, who may connect, by what certificate, and which web pages may call it."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from extproc.settings.fields import Address, Duration, Memory, Network, Section

_UNIX_PATH_MAX = 107  # of the 108 bytes of a unix socket's address


def _origin(value: str) -> str:
    if not re.fullmatch(r"\*|https?://(\*\.)?[^/\s*]+", value):
        raise ValueError("not an origin: write https://app.example.com, https://*.example.com or *")
    return value


def _file_mode(value: str) -> str:
    if not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError('not a file mode: write it in quotes, such as "0660"')
    return value


class Tls(Section):
    """The gateway's certificate, and whether clients need one. Files are PEM; a replaced one is in force in seconds."""

    cert_file: Path = Field(description="the certificate, then its intermediates")
    key_file: Path = Field(description="its private key; only Envoy reads it")
    client_ca_file: Path | None = Field(default=None, description="authorities of client certificates")
    require_client_certificate: bool | None = Field(
        default=None, description="default: with client_ca_file; false: one that is shown must be good, none is needed"
    )
    min_version: Literal["1.2", "1.3"] = "1.2"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.client_ca_file is None and self.require_client_certificate:
            raise ValueError("require_client_certificate: needs client_ca_file")
        return self

    @property
    def files(self) -> tuple[Path, ...]:
        """The operator's files."""
        return tuple(file for file in (self.cert_file, self.key_file, self.client_ca_file) if file is not None)

    @property
    def client_certificate_needed(self) -> bool:
        """Whether a client without a certificate is turned away."""
        return self.client_ca_file is not None and self.require_client_certificate is not False


class Ops(Section):
    """Where probes and metrics are asked for."""

    host: Address = "0.0.0.0"  # noqa: S104 - probes come from the node; nothing of clients' is served there
    port: int = Field(ge=1, le=65535)


class Listen(Section):
    """Where Envoy's ingress listens; the control API is served through it too. With `port: null` on the unix socket
    alone."""

    host: Address = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] | None = 8080
    ops: Ops | None = Field(
        default=None, description="/livez, /readyz and /metrics by themselves; /metrics is then not on `port`"
    )
    unix_socket: Path | None = Field(default=None, description="listen there too; its clients count as 127.0.0.1")
    unix_socket_mode: Annotated[str, AfterValidator(_file_mode)] = Field(
        default="0600", description='in quotes, such as "0660"'
    )
    tls: Tls | None = Field(default=None, description="of the TCP port")
    allowed_ips: list[Network] = Field(
        default=[], description="clients of the TCP port; empty: all. /healthz and /readyz answer everybody"
    )
    trusted_hops: int = Field(
        default=0, ge=0, le=10, description="proxies before this one whose x-forwarded-for is believed"
    )

    max_memory: Memory | None = Field(
        default=None, description="of Envoy, such as 1Gi: near it new requests are a 503, before the system kills it"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.port is None and self.unix_socket is None:
            raise ValueError("port: is needed without unix_socket")
        if self.port is None and (self.tls or self.allowed_ips):
            raise ValueError("port: tls and allowed_ips are of the TCP port, and there is none")
        if self.unix_socket is not None and len(str(self.unix_socket.absolute()).encode()) > _UNIX_PATH_MAX:
            raise ValueError(f"unix_socket: is longer than the {_UNIX_PATH_MAX} bytes a socket's path may have")
        return self


class Cors(Section):
    """Which pages may call the gateway from a browser. None by default."""

    allow_origins: list[Annotated[str, AfterValidator(_origin)]] = Field(
        default=[], description="https://app.example.com, https://*.example.com, or * for all"
    )
    allow_credentials: bool = Field(default=False, description="cookies; bearer keys need no such thing")
    max_age: Duration = Field(default=86400.0, description="how long a browser remembers the answer")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.allow_credentials and "*" in self.allow_origins:
            raise ValueError("allow_credentials: not together with the origin *; name the origins")
        return self
