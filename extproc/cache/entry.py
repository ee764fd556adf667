"""What is kept of an answer. Pure.

In: made by `recording`. Out: bytes for the store, and read back from them: whatever else lies there is no entry.
"""

import msgspec

from extproc.cache.key import Key
from extproc.records import Usage

VERSION = 1


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One complete answer. `answer`: the completion object as JSON, as its first client was given it, without the
    gateway's own fields."""

    key: Key
    team_id: str  # whose request it answered
    model: str  # the gateway's names of what answered
    provider: str
    answer: bytes
    usage: Usage
    cost_nano_usd: int | None  # what it cost, which is what it saves each time
    stored_ms: int  # since the epoch
    version: int = VERSION


class Stored(msgspec.Struct, frozen=True):
    """News of an entry, for the indexes of similar requests. `until_ms`: when it ends, since the epoch."""

    key: Key
    model: str
    until_ms: int


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Entry)


def dump(entry: Entry) -> bytes:
    """The bytes of an entry."""
    return _ENCODER.encode(entry)


def load(data: bytes, key: Key, digest: str) -> Entry | None:
    """The entry in `data`; None unless it is whole, of this version, what `digest` names, and of `key`'s own partition
    and context: nothing that lies at the wrong place in the store reaches a client."""
    try:
        entry = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    found = (entry.version, entry.key.partition, entry.key.context, entry.key.digest)
    return entry if found == (VERSION, key.partition, key.context, digest) else None
