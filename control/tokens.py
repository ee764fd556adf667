"""Callers of the control API who show a token that Envoy verified in the place of a key, and where callers must be.

In: settings, and a request's headers, of which those named x-gw-* are Envoy's own. Out: a `Caller`, or None: no token.
"""

from collections.abc import Mapping

from control.auth import Caller
from extproc.auth import check_address, claim_values, team_of_token
from extproc.catalog import Catalog
from extproc.settings import JwtIssuer, Settings
from extproc.wire import H_JWT_ADMIN, H_JWT_ISSUER


class Tokens:
    """Bound to one configuration."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._issuers = {issuer.issuer: issuer for issuer in settings.auth.jwt}
        self._catalog = catalog
        self.trusted_hops = catalog.trusted_hops

    def caller(self, headers: Mapping[str, str]) -> Caller | None:
        """Whose token it is. Raises PermissionDenied for one that names neither an administrator nor a team."""
        issuer = self._issuers.get(headers.get(H_JWT_ISSUER, ""))
        if issuer is None:
            return None
        if _is_admin(issuer, headers):
            return Caller(None, "token")
        return Caller(team_of_token(self._catalog, headers).id, "token")

    def check_address(self, caller: Caller, headers: Mapping[str, str]) -> None:
        """Raise PermissionDenied where a team's caller is not where its clients must be."""
        view = self._catalog.views.get(caller.team_id or "")
        if view is not None and view.networks:
            check_address(view.networks, headers)


def _is_admin(issuer: JwtIssuer, headers: Mapping[str, str]) -> bool:
    if issuer.admin is None:
        return False
    return not {*claim_values(headers.get(H_JWT_ADMIN, ""))}.isdisjoint(issuer.admin.values)
