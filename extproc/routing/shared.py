"""Health in the shared state: what the settlers of all replicas tell one another.

In and out: circuits and drained providers, one hash that is small and read twice a second; records, one hash with
a field per replica, read once a second, and written when there is news or the last grows old. Every call raises
AWAY where the state cannot be reached: each replica then goes by what it sees itself.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from extproc.routing.breaker import CLOSED, Circuit, closed_by_hand, merged
from extproc.routing.health import Record, key_of
from extproc.state import State

CIRCUITS_KEY: Final = "gw:circuits"
RECORDS_KEY: Final = "gw:health"
_CIRCUIT: Final = "circuit:"
_DRAINED: Final = "drained:"
_LIMITED: Final = "limited:"
CURRENT_S: Final = 15.0  # of a replica's records; older ones are of one that is gone
_FORGOTTEN_S: Final = 300.0


class Shared(msgspec.Struct, frozen=True):
    """What was read at once."""

    circuits: Mapping[str, Circuit]
    limited_until_s: Mapping[str, float]  # only what is still to come
    drained: frozenset[str]


class Drain(msgspec.Struct, frozen=True):
    """Who put a provider out of use."""

    at_s: float
    by: str


class _Kept(msgspec.Struct, frozen=True):
    at_s: float
    records: dict[str, Record]


async def read(client: State) -> Shared:
    """Circuits and drained providers. Raises AWAY, and msgspec.DecodeError for what is not ours."""
    fields = await _hash(client, CIRCUITS_KEY)
    circuits = {
        name.removeprefix(_CIRCUIT): msgspec.json.decode(value, type=Circuit)
        for name, value in fields.items()
        if name.startswith(_CIRCUIT)
    }
    until_s = {name.removeprefix(_LIMITED): float(value) for name, value in fields.items() if name.startswith(_LIMITED)}
    drained = frozenset(name.removeprefix(_DRAINED) for name in fields if name.startswith(_DRAINED))
    now_s = time.time()
    return Shared(circuits, {name: at for name, at in until_s.items() if at > now_s}, drained)


async def write(client: State, circuits: Mapping[str, Circuit], limited_until_s: Mapping[str, float]) -> None:
    """Tell of what changed here. Two replicas at once: the next reading settles which of two circuits is later."""
    known = (await read(client)).circuits
    fields = {
        f"{_CIRCUIT}{key}": msgspec.json.encode(circuit).decode()
        for key, circuit in circuits.items()
        if merged(circuit, known.get(key, circuit)) == circuit
    }
    fields |= {f"{_LIMITED}{key}": repr(at) for key, at in limited_until_s.items()}
    if fields:
        await client.execute_command("HSET", CIRCUITS_KEY, *_flat(fields))


async def reset(client: State, provider: str, models: Iterable[str], now_s: float) -> None:
    """Close the circuits of a provider and of its models (`models`, and those that others told of), and forget that it
    asked us to wait."""
    known = (await read(client)).circuits
    # Closed even if nobody has told of it yet: a later version than any that is on its way.
    keys = {provider, *(key_of(provider, model) for model in models)}
    keys |= {key for key in known if key.startswith(f"{provider}/")}
    closed = {key: closed_by_hand(known.get(key, CLOSED), now_s) for key in keys}
    fields = {f"{_CIRCUIT}{key}": msgspec.json.encode(circuit).decode() for key, circuit in closed.items()}
    await client.execute_command("HSET", CIRCUITS_KEY, *_flat(fields))
    await client.execute_command("HDEL", CIRCUITS_KEY, f"{_LIMITED}{provider}")


async def drain(client: State, provider: str, drained: Drain | None) -> bool:
    """Put a provider out of use, or with None back into it. Returns whether that changed anything."""
    field = f"{_DRAINED}{provider}"
    if drained is None:
        return bool(await client.execute_command("HDEL", CIRCUITS_KEY, field))
    return bool(await client.execute_command("HSET", CIRCUITS_KEY, field, msgspec.json.encode(drained).decode()))


async def leave_records(client: State, replica: str, records: dict[str, Record], now_s: float) -> None:
    """Tell what one replica saw; to be repeated while it lives, as what is older than CURRENT_S counts no more."""
    await client.execute_command("HSET", RECORDS_KEY, replica, msgspec.json.encode(_Kept(now_s, records)).decode())


async def records(client: State) -> dict[str, dict[str, Record]]:
    """What every replica that lives has left, by replica."""
    now_s = time.time()
    found = {name: msgspec.json.decode(value, type=_Kept) for name, value in (await _hash(client, RECORDS_KEY)).items()}
    for name in (name for name, kept in found.items() if now_s - kept.at_s > _FORGOTTEN_S):
        await client.execute_command("HDEL", RECORDS_KEY, name)
    return {name: kept.records for name, kept in found.items() if abs(now_s - kept.at_s) <= CURRENT_S}


async def _hash(client: State, key: str) -> dict[str, bytes]:
    found = await client.execute_command("HGETALL", key)
    pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
    return {name.decode(): value for name, value in pairs}


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [part for pair in fields.items() for part in pair]
