"""Who is asking: a bearer key -> its team, by one look-up of the key's digest; or a token that Envoy verified.

In: headers, of which those named x-gw-* are Envoy's own: a client's are taken off before. Out: the team. Raised for
everybody else: InvalidApiKey, PermissionDenied.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

import msgspec

from extproc.catalog import Catalog, Network, TeamView
from extproc.errors import InvalidApiKey, MissingApiKey, PermissionDenied
from extproc.wire import H_CLIENT, H_JWT_ISSUER, H_JWT_TEAM

_MISSING = "You didn't provide an API key. Send it in an Authorization header: Authorization: Bearer YOUR_KEY."
_WRONG = "Incorrect API key provided. Ask the gateway's operator for a key of your team."
_NO_TEAM = "The token names no team of this gateway. Its claim must be the id of a team, or be mapped to one."
_ELSEWHERE = "This team's requests are not allowed from this address."


def authenticate(catalog: Catalog, headers: Mapping[str, str]) -> TeamView:
    """The team of the request's key or token. Raises InvalidApiKey, PermissionDenied."""
    if H_JWT_ISSUER in headers:
        return team_of_token(catalog, headers)
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise MissingApiKey(_MISSING)
    # Looking up a digest tells a guesser nothing by its timing. Bytes of a header that are no UTF-8 come escaped.
    team = catalog.teams.get("sha256:" + hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).hexdigest())
    if team is None:
        raise InvalidApiKey(_WRONG)
    return team


def check_address(networks: Iterable[Network], headers: Mapping[str, str]) -> None:
    """Raise PermissionDenied unless the client's address is in one of `networks`. Without an address it is in none."""
    try:
        address = ip_address(headers.get(H_CLIENT, ""))
    except ValueError:
        raise PermissionDenied(_ELSEWHERE) from None
    if not any(address in network for network in networks):
        raise PermissionDenied(_ELSEWHERE)


def team_of_token(catalog: Catalog, headers: Mapping[str, str]) -> TeamView:
    """The team that a verified token names. Raises PermissionDenied."""
    known = catalog.issuers.get(headers[H_JWT_ISSUER], {})
    for value in claim_values(headers.get(H_JWT_TEAM, "")):
        if value in known:
            return known[value]
    raise PermissionDenied(_NO_TEAM)


def claim_values(header: str) -> tuple[str, ...]:
    """What a claim says: a text, or the texts of a list, which Envoy writes as JSON in base64."""
    try:
        found = msgspec.json.decode(base64.b64decode(header, validate=True), type=list[str])
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return (header,)
    return tuple(found)
