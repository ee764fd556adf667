"""The store on Valkey or Redis, one server or a cluster: one Lua script, one round trip, per call.

In: entries and keys. Out: the same, or StoreUnavailable. Implements `ports.Entries`. All keys of a partition lie in one
slot; what is about all partitions (their list, the news of entries, the counts) lies apart and is written after the
entry is. Each script is sent by its hash, and in full only when the server does not have it.

Deadlines are the clients' (`state.timeout`, `WRITE_S`), which tell a pause of this process from one of the server's: a
slow server delays a request by that much at most, and one that stays so is left alone for a second (`answers`).
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from extproc.budget.ledger import Rider
from extproc.budget.redis import RESERVE, Script
from extproc.cache.calibrate import SCALE, Tally
from extproc.cache.counts import Batch, Counts
from extproc.cache.entry import Entry, Stored, dump, load
from extproc.cache.key import Key
from extproc.cache.ports import Flight, StoreUnavailable, Stowed
from extproc.cache.ticket import Ticket
from extproc.process.beat import beat
from extproc.state import AWAY, Argument, State, UnknownScript

WRITE_S = 2.0  # behind the reply: nobody waits
NEWS_KEPT = 50_000  # entries a restarted worker can learn of
PURGE_KEPT_MS = 3_600_000  # longer than any request lasts
LEFT_KEPT_MS = 30_000  # longer than any flight
CHECKS_KEPT_S = 30 * 86_400
_COUNTED_KEPT_MS = 600_000  # names of batches that were added: longer than one is repeated, but for an outage
_FLUSH_S = 0.5
_SCAN = 500


# Both scripts as they are, each with keys and arguments of its own. KEYS: the partition's, the team's. ARGV: how many
# arguments the look-up has, these, that of the hold. Returns {what the look-up found, the hold's reply or nil}.
_BOTH = b"""
local size = tonumber(ARGV[1])
local found = (function(KEYS, ARGV) %s end)({KEYS[1]}, {unpack(ARGV, 2, size + 1)})
local flight = ARGV[4] -- the look-up's third
if type(found) == 'string' or (found == 0 and flight ~= '') then return {found, false} end
return {found, (function(KEYS, ARGV) %s end)({KEYS[2]}, {ARGV[size + 2]})}
"""

_LOOK_UP, _STORE, _LAND, _FORGET, _PURGE, _SIZE, _VECTORS, _ADD_VECTORS, _COUNT = (
    Script.of("extproc.cache", name)
    for name in ("look_up", "store", "land", "forget", "purge", "size", "vectors", "add_vectors", "count")
)
_LOOK_UP_AND_HOLD = Script(_BOTH % (_LOOK_UP.text, RESERVE.text))


class About(msgspec.Struct, frozen=True):
    """What the lists say of an entry."""

    digest: str
    stored_ms: int
    team_id: str
    model: str


class RedisStore:
    """See the module. Look-ups go by `quick`, all else by `client`, so that no large entry is before them in a queue.

    Both are shared, not owned: close them where they were made.
    """

    def __init__(self, client: State, quick: State | None = None, *, prefix: str = "gw") -> None:
        self._client = client
        self._quick = quick or client
        self._prefix = f"{prefix}:cache"

    # --- the walk and the recorder -----------------------------------------------------------------------------------

    async def look_up(
        self, key: Key, now_ms: int, flight: str, flight_ms: int, rider: Rider | None = None
    ) -> Entry | Flight:
        """See ports.Entries. What cannot be read there is no entry: it gives way to the answer that comes next."""
        asked = (key.digest, now_ms, flight, flight_ms)
        if rider is None:
            found = await self._look(key.partition, *asked)
        else:
            words = (len(asked), *asked, rider.argument)
            found, rider.reply = await self._run(
                _LOOK_UP_AND_HOLD, key.partition, *words, also=(rider.key,), client=self._quick
            )
        if isinstance(found, bytes):
            return load(found, key, key.digest) or Flight.LEAD
        return Flight.LEAD if found else Flight.FOLLOW

    async def get(self, key: Key, digest: str, now_ms: int) -> Entry | None:
        """See ports.Entries."""
        found = await self._look(key.partition, digest, now_ms, "", 0)
        return load(found, key, digest) if isinstance(found, bytes) else None

    async def store(self, entry: Entry, ticket: Ticket, ttl_ms: int, most_bytes: int) -> Stowed:
        """See ports.Entries. The news of it follows, in a call of its own: losing it loses a similar hit, no more."""
        key = entry.key
        outcome, evicted, _ = await self._run(
            *(_STORE, key.partition, key.digest, dump(entry), entry.stored_ms, ttl_ms, most_bytes),
            *(entry.team_id, entry.model, ticket.flight, ticket.asked_ms),
        )
        if outcome == b"kept":
            await self._command("SADD", f"{self._prefix}:partitions", key.partition)
            if key.text is not None:
                news = msgspec.msgpack.encode(Stored(key, entry.model, entry.stored_ms + ttl_ms))
                await self._command("XADD", f"{self._prefix}:stored", "MAXLEN", "~", NEWS_KEPT, "*", "entry", news)
        return Stowed(outcome.decode(), evicted)

    async def land(self, key: Key, flight: str) -> None:
        """See ports.Entries."""
        await self._run(_LAND, key.partition, key.digest, flight)

    async def left(self, partition: str, request_id: str) -> None:
        """A request has ended, and nobody knows what it leads: who asks next takes that over."""
        await self._command("SET", f"{self._base(partition)}:left:{request_id}", "", "PX", LEFT_KEPT_MS)

    async def stored_after(self, place: str = "0", most: int = 1000) -> list[tuple[str, Stored]]:
        """News of entries kept after `place` ("0": all that are still told of), oldest first, each with its place."""
        rows = await self._command("XRANGE", f"{self._prefix}:stored", f"({place}", "+", "COUNT", most)
        return [(at.decode(), msgspec.msgpack.decode(_mapping(row)[b"entry"], type=Stored)) for at, row in rows]

    async def vectors(self, partition: str, digests: Sequence[str]) -> list[bytes | None]:
        """The vectors of entries' texts, as `add_vectors` got them; b"" where nobody has made them yet, None where the
        entry is gone."""
        return list(await self._run(_VECTORS, partition, *digests))

    async def add_vectors(self, partition: str, digest: str, vectors: bytes) -> None:
        """Keep the vectors of an entry's text with it. Nothing happens if it is gone."""
        await self._run(_ADD_VECTORS, partition, digest, vectors)

    # --- the control API ---------------------------------------------------------------------------------------------

    async def partitions(self) -> set[str]:
        """Every partition that ever had an entry."""
        return {name.decode() for name in await self._command("SMEMBERS", f"{self._prefix}:partitions")}

    async def purge(self, partition: str, what: str, now_ms: int) -> None:
        """Answers asked for until now that are `what` ("*", "model:<name>", "key:<digest>") are not kept any more."""
        await self._run(_PURGE, partition, what, now_ms, PURGE_KEPT_MS)

    async def about(self, partition: str) -> AsyncIterator[About]:
        """What is kept in a partition; entries that come or go meanwhile may be missed or told twice."""
        cursor = 0
        while True:
            cursor, rows = await self._command("HSCAN", f"{self._base(partition)}:about", cursor, "COUNT", _SCAN)
            for digest, text in _mapping(rows).items():
                _, stored_ms, team_id, model = text.decode().split(" ", 3)
                yield About(digest.decode(), int(stored_ms), team_id, model)
            if int(cursor) == 0:
                return

    async def forget(self, partition: str, digests: Iterable[str]) -> int:
        """Delete entries; returns how many there were."""
        wanted = list(digests)
        counts = [await self._run(_FORGET, partition, *wanted[at : at + _SCAN]) for at in range(0, len(wanted), _SCAN)]
        return sum(counts)

    async def size(self, partition: str, now_ms: int) -> tuple[int, int]:
        """Entries and bytes of a partition."""
        entries, size_bytes = await self._run(_SIZE, partition, now_ms)
        return entries, size_bytes

    # --- counts ------------------------------------------------------------------------------------------------------

    async def add_counts(self, replica: str, batch: Batch) -> None:
        """Add a batch to what `replica` counted so far, unless it was added before."""
        counts = self._counts(replica)
        words: list[Argument] = [_COUNTED_KEPT_MS]
        for field, number in batch.numbers.items():
            words += (field, number)
        await asyncio.gather(
            self._command("SADD", f"{self._prefix}:replicas", replica),
            self._evaluate(_COUNT, (counts, f"{{{counts}}}:{batch.name}"), tuple(words)),
        )

    async def counts(self, replica: str) -> dict[str, int]:
        """What `replica` counted since it began."""
        rows = await self._command("HGETALL", self._counts(replica))
        return {field.decode(): int(number) for field, number in _mapping(rows).items()}

    async def replicas(self) -> set[str]:
        """Every replica that ever counted."""
        return {name.decode() for name in await self._command("SMEMBERS", f"{self._prefix}:replicas")}

    async def hand_on(self, replica: str, counts: Counts) -> None:
        """Add all that `counts` has. What the store does not take now stays there."""
        with suppress(StoreUnavailable):
            while (batch := counts.batch()) is not None:
                await self.add_counts(replica, batch)
                counts.done()

    async def flush(self, replica: str, counts: Counts) -> None:
        """Hand on what `counts` gathers, until cancelled."""
        while True:
            await beat(_FLUSH_S)
            await self.hand_on(replica, counts)

    # --- checks of similar hits ----------------------------------------------------------------------------------

    async def add_check(self, partition: str, bucket: int, *, wrong: bool) -> None:
        """One more check of a partition; what nobody adds to for a month is forgotten."""
        name = self._checks(partition)
        await self._command("HINCRBY", name, f"checked:{bucket}", 1)
        if wrong:
            await self._command("HINCRBY", name, f"wrong:{bucket}", 1)
        await self._command("EXPIRE", name, CHECKS_KEPT_S)

    async def tally(self, partition: str) -> Tally:
        """The checks of a partition, by all workers of all replicas."""
        tally = Tally()
        for field, number in _mapping(await self._command("HGETALL", self._checks(partition))).items():
            kind, at = field.decode().split(":")
            (tally.wrong if kind == "wrong" else tally.checked)[int(at)] = int(number)
        return tally

    # --- inside ------------------------------------------------------------------------------------------------------

    def _base(self, partition: str) -> str:
        return f"{self._prefix}:{{{partition}}}"

    def _counts(self, replica: str) -> str:
        return f"{self._prefix}:counts:{replica}"

    def _checks(self, partition: str) -> str:
        return f"{self._prefix}:checks:{SCALE}:{partition}"

    async def _look(self, partition: str, *arguments: Argument) -> Any:
        return await self._run(_LOOK_UP, partition, *arguments, client=self._quick)

    async def _run(
        self,
        script: Script,
        partition: str,
        *arguments: Argument,
        also: tuple[str, ...] = (),
        client: State | None = None,
    ) -> Any:
        """`also`: keys besides the partition's."""
        return await self._evaluate(script, (self._base(partition), *also), arguments, client=client)

    async def _evaluate(
        self, script: Script, keys: tuple[str, ...], arguments: tuple[Argument, ...], *, client: State | None = None
    ) -> Any:
        words = (len(keys), *keys, *arguments)
        try:
            return await self._command("EVALSHA", script.sha, *words, client=client)
        except UnknownScript:
            return await self._command("EVAL", script.text, *words, client=client)

    async def _command(self, *words: Argument, client: State | None = None) -> Any:
        try:
            return await (client or self._client).execute_command(*words)
        except UnknownScript:
            raise
        except AWAY as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error


def _mapping(answer: Any) -> dict[bytes, bytes]:
    """Fields and values: redis-py makes a dict of them, others leave the flat list."""
    return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
