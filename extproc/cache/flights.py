"""Single flight: requests that wait for the answer to the same one, in this worker or another.

In: a question whose flight another request leads. Out: the answer once it is kept; or, to go itself, the flight to
lead now because its leader gave up, "" if the wait is over.

The lock is in the store, so it holds over workers and replicas; it ends with its entry, when its leader gives up or is
found to have left (`settle/orphans.py`), or by itself after the longest wait. One poll a key and worker asks for it,
however many wait: no notification can be missed, and a request that is on its way costs the store 20 calls a second.
"""

import asyncio
import time
from functools import partial

from extproc.cache.entry import Entry
from extproc.cache.hit import Question
from extproc.cache.ports import Entries, Flight, StoreUnavailable

POLL_S = 0.05


class Flights:
    """The waits of one worker."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries
        self._polls: dict[str, _Poll] = {}  # by digest

    async def wait(self, question: Question, limit_s: float) -> Entry | str:
        """See the module. Raises StoreUnavailable."""
        deadline_s = time.monotonic() + limit_s
        digest = question.key.digest
        while (left_s := deadline_s - time.monotonic()) > 0:
            poll = self._polls.get(digest) or self._begin(question, limit_s)
            if not await poll.ends(left_s):
                break
            answer = poll.task.result()
            if answer is not None:
                return answer
            if poll.leads():
                return poll.flight  # the others of this worker wait for this one now
        return ""

    def _begin(self, question: Question, limit_s: float) -> "_Poll":
        digest = question.key.digest
        poll = self._polls[digest] = _Poll(self._entries, question, limit_s)
        poll.task.add_done_callback(partial(self._over, digest))
        return poll

    def _over(self, digest: str, task: "asyncio.Task[Entry | None]") -> None:
        """What it found is for those who waited then, if anybody still did."""
        del self._polls[digest]
        if not task.cancelled():
            task.exception()


class _Poll:
    """What all who wait for one key in this worker share. `task`: the entry, or None for the lead."""

    def __init__(self, entries: Entries, question: Question, flight_s: float) -> None:
        self.flight = question.request_id
        self._waiters = 0
        self._lead = False  # it has taken it, and nobody has it yet
        self.task = asyncio.create_task(self._run(entries, question, round(flight_s * 1000)))

    async def ends(self, limit_s: float) -> bool:
        """Wait for its end, at most `limit_s`; whether it came."""
        self._waiters += 1
        try:
            done, _ = await asyncio.wait({self.task}, timeout=limit_s)
        finally:
            self._waiters -= 1
        return bool(done)

    def leads(self) -> bool:
        """Whether the caller has the lead now: the first who asks, where it was to be had."""
        lead, self._lead = self._lead, False
        return lead

    async def _run(self, entries: Entries, question: Question, flight_ms: int) -> Entry | None:
        key, found, failed = question.key, Flight.FOLLOW, False
        while found is Flight.FOLLOW:
            await asyncio.sleep(POLL_S)
            flight = self.flight if self._waiters else ""  # nobody is left to take the lead
            try:
                answer = await entries.look_up(key, question.now_ms, flight, flight_ms)
            except StoreUnavailable:
                if failed:
                    raise
                failed = True  # one of hundreds may be slow: the store is gone when two in a row fail
                continue
            failed = False
            if isinstance(answer, Entry):
                return answer
            found = answer if flight else Flight.LEAD
            if answer is Flight.LEAD and not self._waiters:
                await entries.land(key, flight)  # all left while it was taken; who comes now asks anew
            else:
                self._lead = answer is Flight.LEAD
        return None
