"""A team's keys: made, rotated, revoked, listed. Pure.

In: the team as gateway.yaml has it, what was changed of it since, the time. Out: the change, and keys as they may be
seen: a key's id is the beginning of its digest, by which the log of changes calls its owner too. A key itself is in the
answer to whoever made it, and nowhere else.
"""

import hashlib
import secrets
import string
from typing import Any, Literal

import msgspec

from extproc.errors import Conflict, NotFound
from extproc.process.logs import rfc3339
from extproc.settings import Team
from extproc.snapshot.overrides import MadeKey, TeamOverride, holds

PREFIX = "gwk_"  # by which a scanner for leaked secrets knows a key
MOST_KEYS = 100  # of a team that hold at once: every process of every replica reads them all with each change
_ENDED_KEPT = 20
_ALPHABET = string.ascii_letters + string.digits
_CHARS = 43  # of 62: 256 bits
_ID_HEX = 12


class Key(msgspec.Struct, frozen=True):
    """A key as it may be seen. Of one in gateway.yaml little is known."""

    key_id: str
    source: Literal["file", "api"]
    status: Literal["active", "expired", "revoked"]
    name: str = ""
    last_four: str | None = None
    created_at: str | None = None
    created_by: str | None = None
    expires_at: str | None = None  # when it ends, or ended


class KeyMade(Key, frozen=True, kw_only=True):
    """The only answer with the key itself."""

    key: str
    replaces: Key | None = None  # of a rotation: the old key, which holds until it expires


def new_key() -> str:
    """A key that cannot be guessed."""
    return PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_CHARS))


def digest_of(key: str) -> str:
    """How keys are stored."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def id_of(digest: str) -> str:
    """How a key is called."""
    return digest.removeprefix("sha256:")[:_ID_HEX]


def made(team: Team, override: TeamOverride, key: MadeKey, now_s: float) -> TeamOverride:
    """`override` with `key`. Raises Conflict."""
    if sum(holds(override, digest, now_s) for digest in _digests(team, override)) >= MOST_KEYS:
        raise Conflict(f"Team {team.id} has {MOST_KEYS} keys; revoke some first.")
    return _without_old(msgspec.structs.replace(override, keys_made=(*override.keys_made, key)), now_s)


def revoked(override: TeamOverride, digest: str, at_s: float, now_s: float) -> TeamOverride:
    """`override` in which a key is refused from `at_s` on, or from earlier if it is to end before."""
    earlier = override.ends_at(digest)
    if earlier is not None and earlier <= at_s:
        return override
    return _without_old(msgspec.structs.replace(override, keys_revoked=override.keys_revoked | {digest: at_s}), now_s)


def found(team: Team, override: TeamOverride, key_id: str) -> str:
    """The digest of a key. Raises NotFound."""
    for digest in _digests(team, override):
        if id_of(digest) == key_id:
            return digest
    raise NotFound(f"Team {team.id} has no key {key_id}.", param="key_id")


def lifetime_s(override: TeamOverride, digest: str) -> float | None:
    """How long a key was made to hold; None: for ever, as those of gateway.yaml."""
    of_key = _made_key(override, digest)
    return None if of_key is None or of_key.expires_at is None else of_key.expires_at - of_key.created_at


def listed(team: Team, override: TeamOverride, now_s: float) -> list[Key]:
    """All keys, those that ended lately too; the file's first, then by age."""
    return [shown(override, digest, now_s) for digest in _digests(team, override)]


def shown(override: TeamOverride, digest: str, now_s: float) -> Key:
    """One key."""
    of_key = _made_key(override, digest)
    end_s = override.ends_at(digest)
    ended: Literal["expired", "revoked"] = "revoked" if override.keys_revoked.get(digest) == end_s else "expired"
    facts: dict[str, Any] = {
        "key_id": id_of(digest),
        "status": "active" if holds(override, digest, now_s) else ended,
        "expires_at": None if end_s is None else rfc3339(end_s),
    }
    if of_key is None:
        return Key(source="file", **facts)
    return Key(
        source="api",
        name=of_key.name,
        last_four=of_key.last_four,
        created_at=rfc3339(of_key.created_at),
        created_by=of_key.created_by,
        **facts,
    )


def _made_key(override: TeamOverride, digest: str) -> MadeKey | None:
    return next((key for key in override.keys_made if key.digest == digest), None)


def _digests(team: Team, override: TeamOverride) -> list[str]:
    return list(dict.fromkeys((*team.keys, *(key.digest for key in override.keys_made))))


def _without_old(override: TeamOverride, now_s: float) -> TeamOverride:
    """Of made keys that have ended only the last few are remembered."""
    ended = [key.digest for key in override.keys_made if not holds(override, key.digest, now_s)]
    forgotten = set(sorted(ended, key=lambda digest: override.ends_at(digest) or 0.0)[:-_ENDED_KEPT])
    return msgspec.structs.replace(
        override,
        keys_made=tuple(key for key in override.keys_made if key.digest not in forgotten),
        keys_revoked={digest: at_s for digest, at_s in override.keys_revoked.items() if digest not in forgotten},
    )
