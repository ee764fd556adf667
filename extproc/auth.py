"""Who is asking: a bearer key -> its team, by one look-up of the key's digest."""

import hashlib
from collections.abc import Mapping

from extproc.catalog import Catalog, TeamView
from extproc.errors import InvalidApiKey

_MISSING = "You didn't provide an API key. Send it in an Authorization header: Authorization: Bearer YOUR_KEY."
_WRONG = "Incorrect API key provided. Ask the gateway's operator for a key of your team."


def authenticate(catalog: Catalog, headers: Mapping[str, str]) -> TeamView:
    """The team of the request's bearer key. Raises InvalidApiKey."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise InvalidApiKey(_MISSING)
    # Looking up a digest tells a guesser nothing by its timing.
    team = catalog.teams.get("sha256:" + hashlib.sha256(key.strip().encode()).hexdigest())
    if team is None:
        raise InvalidApiKey(_WRONG)
    return team
