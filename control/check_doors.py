"""What `gateway check` says of the doors: where the gateway listens, who may come in, what looks like a mistake.

In: checked Settings. Out: lines.
"""

import ipaddress
from collections.abc import Iterator

from extproc.settings import JwtIssuer, Settings, Tls


def listens(settings: Settings) -> str:
    """Where, and who may come in."""
    listen = settings.listen
    port = []
    if listen.port is not None:
        port = [
            f"{listen.host}:{listen.port}",
            *(_tls(listen.tls) if listen.tls else []),
            *([f"for {', '.join(listen.allowed_ips)}"] if listen.allowed_ips else []),
            *([f"behind {listen.trusted_hops} trusted hops"] if listen.trusted_hops else []),
        ]
    unix = [f"unix:{listen.unix_socket} (mode {listen.unix_socket_mode})"] if listen.unix_socket else []
    return " and ".join([*([", ".join(port)] if port else []), *unix])


def _tls(tls: Tls) -> list[str]:
    clients = f"client certificates {'needed' if tls.client_certificate_needed else 'checked where shown'}"
    return [f"TLS {tls.min_version} or newer", *([clients] if tls.client_ca_file else [])]


def tokens(issuer: JwtIssuer) -> str:
    """What an issuer's tokens stand for, in one line."""
    who = "by a mapping" if issuer.teams else "the team's id"
    admin = f"; admin by {issuer.admin.claim}" if issuer.admin else ""
    keys = issuer.jwks_uri or issuer.jwks_file or "written here"
    return f"{issuer.issuer} for {', '.join(issuer.audiences)}: {issuer.team_claim} is {who}{admin}; keys {keys}"


def warnings(settings: Settings) -> Iterator[str]:
    """What is allowed but probably not meant."""
    listen = settings.listen
    if listen.port is not None and listen.tls is None and not _loopback(listen.host):
        yield "listen.tls: none; keys travel unencrypted unless something before this gateway ends TLS"
    if listen.unix_socket is not None and listen.unix_socket.absolute().is_relative_to(settings.data_dir.absolute()):
        yield "listen.unix_socket: is in data_dir, where the gateway's own processes trust each other"
    if "*" in settings.cors.allow_origins:
        yield "cors.allow_origins: * lets every page call; a key in a page is everybody's"
    for index, issuer in enumerate(settings.auth.jwt):
        if issuer.jwks_uri and issuer.jwks_uri.startswith("http://"):
            yield f"auth.jwt[{index}].jwks_uri: keys that come unencrypted can be exchanged on their way"


def _loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
