"""Tokens of identity providers, verified by Envoy: signature, issuer, audience, time.

In: issuers. Out: the filter, and the clusters that their public keys are fetched from. Only what the filter verified
becomes one of our headers, which no client can send: they are taken off before. What has not the form of a token passes
as it is: it is a key, or nothing, and the worker says so.
"""

import json
from typing import Any
from urllib.parse import urlsplit

from control.render.names import any_of, endpoints, seconds
from control.render.upstream import found_by, upstream_tls
from extproc.settings import JwtIssuer
from extproc.wire import H_JWT_ADMIN, H_JWT_ISSUER, H_JWT_TEAM

Document = dict[str, Any]

_TIMEOUT_S = 5.0
# RFC 7519, 3: three parts with dots between, the first a JSON object, whose base64 begins so.
_FORM = r"[Bb]earer +eyJ[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"


def tokens(issuers: list[JwtIssuer]) -> Document:
    """Keys pass as they are; what has a token's form must be one of an issuer's."""
    names = [_name(index) for index in range(len(issuers))]
    providers = {name: _provider(name, issuer) for name, issuer in zip(names, issuers, strict=True)}
    any_issuer = {"requires_any": {"requirements": [{"provider_name": name} for name in names]}}
    form = {"name": "authorization", "string_match": {"safe_regex": {"regex": _FORM}}}
    rule = {
        "match": {"prefix": "/", "headers": [form]},
        "requires": any_issuer if len(names) > 1 else {"provider_name": names[0]},
    }
    return {
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": any_of(
            "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication", providers=providers, rules=[rule]
        ),
    }


def _provider(name: str, issuer: JwtIssuer) -> Document:
    claims = {H_JWT_ISSUER: "iss", H_JWT_TEAM: issuer.team_claim}
    if issuer.admin is not None:
        claims[H_JWT_ADMIN] = issuer.admin.claim
    return {
        "issuer": issuer.issuer,
        "audiences": issuer.audiences,
        "require_expiration": True,
        "clock_skew_seconds": int(issuer.clock_skew),
        "from_headers": [{"name": "authorization", "value_prefix": scheme} for scheme in ("Bearer ", "bearer ")],
        "forward": True,  # the worker's own look behind a semantic hit shows it again
        "claim_to_headers": [{"header_name": header, "claim_name": claim} for header, claim in claims.items()],
        **_jwks(name, issuer),
    }


def _jwks(name: str, issuer: JwtIssuer) -> Document:
    if issuer.jwks_uri is None:
        return {"local_jwks": {"inline_string": json.dumps(issuer.jwks)}}
    return {
        "remote_jwks": {
            "http_uri": {"uri": issuer.jwks_uri, "cluster": name, "timeout": seconds(_TIMEOUT_S)},
            "cache_duration": seconds(issuer.jwks_refresh),
            # An issuer that is away at the start keeps nobody with a key out.
            "async_fetch": {"fast_listener": True, "failed_refetch_duration": "2s"},
        }
    }


def jwks_clusters(issuers: list[JwtIssuer]) -> list[Document]:
    """Where the public keys of issuers with a `jwks_uri` are."""
    return [_cluster(_name(index), issuer) for index, issuer in enumerate(issuers) if issuer.jwks_uri]


def _cluster(name: str, issuer: JwtIssuer) -> Document:
    url = urlsplit(issuer.jwks_uri or "")
    host, secure = url.hostname or "", url.scheme == "https"
    address = {"socket_address": {"address": host, "port_value": url.port or (443 if secure else 80)}}
    return {
        "name": name,
        "connect_timeout": seconds(_TIMEOUT_S),
        "load_assignment": endpoints(name, [address]),
        **found_by(host),
        **({"transport_socket": upstream_tls(host, issuer.ca_file)} if secure else {}),
    }


def _name(index: int) -> str:
    """Of an issuer's keys: of the filter's provider and of its cluster."""
    return f"jwks-{index}"
