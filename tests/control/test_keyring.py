"""A team's keys over time: what holds when, what is listed, what is forgotten."""

import re

import pytest

from control import keyring
from control.keyring import MOST_KEYS, digest_of, found, id_of, listed, made, new_key, revoked
from extproc.errors import Conflict, NotFound
from extproc.settings import Team
from extproc.snapshot.overrides import MadeKey, TeamOverride, holds

TEAM = Team.model_validate({"id": "a", "keys": ["sk-file"]})
FILE = digest_of("sk-file")


def key(plain: str, at: float = 0.0, expires_at: float | None = None) -> MadeKey:
    return MadeKey(digest_of(plain), plain[-4:], at, "sha256:admin", plain, expires_at)


def test_a_key_is_known_by_its_prefix_and_cannot_be_guessed() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"gwk_[A-Za-z0-9]{43}", each) for each in keys)


def test_a_rotated_key_holds_through_the_overlap() -> None:
    after = made(TEAM, revoked(TeamOverride(), FILE, 100.0, 0.0), key("new"), 0.0)
    assert [holds(after, digest, 99.0) for digest in (FILE, digest_of("new"))] == [True, True]
    assert [holds(after, digest, 100.0) for digest in (FILE, digest_of("new"))] == [False, True]


def test_nothing_gives_a_key_more_time_than_it_had() -> None:
    override = TeamOverride(keys_made=(key("short", expires_at=50.0),))
    assert revoked(override, digest_of("short"), 100.0, 0.0).ends_at(digest_of("short")) == 50.0
    twice = revoked(revoked(override, digest_of("short"), 20.0, 0.0), digest_of("short"), 30.0, 0.0)
    assert twice.ends_at(digest_of("short")) == 20.0


def test_the_list_tells_all_but_the_key() -> None:
    override = revoked(TeamOverride(keys_made=(key("abcdef", 1.0, 50.0), key("other", 2.0))), digest_of("other"), 9, 9)
    by_file, expiring, gone = listed(TEAM, override, 10.0)
    assert (by_file.source, by_file.status, by_file.last_four, by_file.expires_at) == ("file", "active", None, None)
    assert (expiring.status, expiring.last_four, expiring.expires_at) == ("active", "cdef", "1970-01-01T00:00:50.000Z")
    assert (gone.status, gone.created_by) == ("revoked", "sha256:admin")
    assert listed(TEAM, override, 60.0)[1].status == "expired"


def test_a_key_is_found_by_its_id_in_its_own_team_only() -> None:
    assert found(TEAM, TeamOverride(), id_of(FILE)) == FILE
    with pytest.raises(NotFound):
        found(TEAM, TeamOverride(), id_of(digest_of("another's")))


def test_there_are_never_more_than_so_many_that_hold_and_old_ones_are_forgotten() -> None:
    override = TeamOverride()
    for number in range(300):
        override = made(TEAM, override, key(f"key-{number}", number), float(number))
        override = revoked(override, digest_of(f"key-{number}"), float(number), float(number))
    assert len(override.keys_made) <= 21
    assert override.keys_revoked.keys() <= {each.digest for each in override.keys_made}
    for number in range(MOST_KEYS - 1):  # and one in the file
        override = made(TEAM, override, key(f"more-{number}"), 1000.0)
    with pytest.raises(Conflict):
        made(TEAM, override, key("one too many"), 1000.0)


def test_what_is_revoked_of_the_file_is_never_forgotten() -> None:
    override = revoked(TeamOverride(), FILE, 0.0, 0.0)
    for number in range(100):
        override = made(TEAM, override, key(f"key-{number}", expires_at=number), float(number))
    assert not holds(override, FILE, 1000.0)


def test_digests_are_those_of_the_configuration() -> None:
    assert keyring.digest_of("sk-file") == TEAM.keys[0]
