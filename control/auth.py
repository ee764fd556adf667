"""Who asks the control API, and what they may see.

In: the Authorization header. Out: a `Caller`: an administrator, or a team that sees its own. Raises the GatewayErrors
of `extproc.errors` for everybody else.
"""

import hashlib
from collections.abc import Mapping

import msgspec

from extproc.errors import InvalidApiKey, MissingApiKey, PermissionDenied, TeamMismatch
from extproc.settings import Settings

_MISSING = "You didn't provide an API key. Send it in an Authorization header: Authorization: Bearer YOUR_KEY."
_WRONG = "Incorrect API key provided. Ask the gateway's operator for a key."


class Caller(msgspec.Struct, frozen=True):
    """The owner of a key. `team_id` None: an administrator."""

    team_id: str | None
    key: str = ""  # the beginning of the key's digest, by which it can be told from others

    @property
    def is_admin(self) -> bool:
        """Whether the key is an admin key."""
        return self.team_id is None

    def require_admin(self) -> None:
        """Raise PermissionDenied unless an administrator asks."""
        if not self.is_admin:
            raise PermissionDenied("This needs an admin key.")

    def require_team(self, team_id: str) -> None:
        """Raise TeamMismatch unless `team_id` is the caller's own team, or an administrator asks."""
        if not self.is_admin and team_id != self.team_id:
            raise TeamMismatch("This API key belongs to another team.", param="team_id")


class Keys:
    """All keys of the configuration, by digest."""

    def __init__(self, settings: Settings) -> None:
        teams = {key: Caller(team.id, shown(key)) for team in settings.teams for key in team.keys}
        self._callers: Mapping[str, Caller] = teams | {key: Caller(None, shown(key)) for key in settings.admin.keys}

    def caller(self, authorization: str) -> Caller:
        """The owner of the bearer key in an Authorization header. Raises InvalidApiKey."""
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise MissingApiKey(_MISSING)
        # Looking up a digest tells a guesser nothing by its timing. Bytes of a header that are no UTF-8 come escaped.
        caller = self._callers.get("sha256:" + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest())
        if caller is None:
            raise InvalidApiKey(_WRONG)
        return caller


def shown(digest: str) -> str:
    """`sha256:<hex>` of a key as it may be seen: enough to tell keys apart, too little to find one."""
    return digest[: len("sha256:") + 12]
