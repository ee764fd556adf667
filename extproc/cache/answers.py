"""The walk's step `cache`: is there an answer already, or one on its way?

In: a `Question`. Out: a `Hit`, or a `Miss` with the ticket to keep what comes. Exactly the same request first, in one
round trip; then, where the terms allow it, a similar one; then the wait for the same request in flight (`flights`).
A store that fails twice in a row is left alone for a second; requests go on without a cache meanwhile. One that fails
once may have been slow: of hundreds of look-ups on a busy machine one is.
"""

import logging
from collections.abc import Callable

from extproc.budget.ledger import Rider
from extproc.cache.counts import Counts
from extproc.cache.entry import Entry
from extproc.cache.flights import Flights
from extproc.cache.hit import Hit, Miss, Question
from extproc.cache.policy import Bypass
from extproc.cache.ports import Entries, Flight, Similar, StoreUnavailable
from extproc.cache.ticket import Ticket
from extproc.settings import Cache

log = logging.getLogger(__name__)

AWAY_MS = 1_000


class Answers:
    """Bound to a worker's store. `settings`: those of now."""

    def __init__(
        self, settings: Callable[[], Cache], entries: Entries, counts: Counts, similar: Similar | None = None
    ) -> None:
        self.settings = settings
        self._entries = entries
        self._counts = counts
        self._similar = similar
        self._flights = Flights(entries)
        self._doubted = False  # the last look-up that ended had failed
        self._away_until_ms = 0

    async def look_up(self, question: Question, rider: Rider | None = None) -> Hit | Miss:
        """An answer, or how to go on. Waits at most for the store's deadline and `coalesce_wait`.

        `rider`: the request's hold, taken along where nothing but the store's answer decides that it is a miss.
        """
        outcome = await self._outcome(question, rider if self._similar_for(question) is None else None)
        team_id = question.team_id
        if isinstance(outcome, Miss):
            if outcome.status == "miss":
                self._counts.add(team_id, "misses")
            else:
                self.bypassed(team_id, outcome.reason)
            return outcome
        self._counts.add(team_id, "hits" if outcome.status == "hit" else "semantic_hits")
        self._counts.add(team_id, "saved_tokens", outcome.entry.usage.input_tokens + outcome.entry.usage.output_tokens)
        self._counts.add(team_id, "saved_nano_usd", outcome.entry.cost_nano_usd or 0)
        return outcome

    def bypassed(self, team_id: str, reason: Bypass) -> None:
        """Count a request that the cache does not answer."""
        if reason != "off":
            self._counts.add(team_id, "bypasses", detail=reason)

    async def _outcome(self, question: Question, rider: Rider | None) -> Hit | Miss:
        terms = question.terms
        if not terms.read:
            return Miss("bypass", terms.bypass, _ticket(question, "") if terms.write else None)
        if question.now_ms < self._away_until_ms:
            return Miss("bypass", "unavailable")
        doubted = self._doubted
        try:
            found = await self._read(question, rider)
        except StoreUnavailable as error:
            self._counts.add(question.team_id, "errors", detail="look_up")
            if doubted:  # what was under way with the first that failed says no more than that one
                self._leave_alone(question.now_ms, error)
            self._doubted = True
            # If it was only slow, others wait for this one now.
            return Miss("bypass", "unavailable", _ticket(question, question.request_id) if terms.write else None)
        self._doubted = False
        return found

    def _leave_alone(self, now_ms: int, error: StoreUnavailable) -> None:
        if now_ms >= self._away_until_ms:  # the first of those that were under way to find out
            log.warning("cache unavailable; requests go on without", extra={"reason": str(error), "for_ms": AWAY_MS})
        self._away_until_ms = now_ms + AWAY_MS

    async def _read(self, question: Question, rider: Rider | None) -> Hit | Miss:
        wait_s = self.settings().coalesce_wait if question.terms.write else 0.0
        flight = question.request_id if wait_s else ""
        found = await self._entries.look_up(question.key, question.now_ms, flight, round(wait_s * 1000), rider)
        if isinstance(found, Entry):
            if self._usable(found, question):
                return Hit(found, "hit", _age_s(found, question))
            return _miss(question, "")
        similar = await self._look_for_similar(question)
        if similar is not None:
            if found is Flight.LEAD and flight:
                await self._entries.land(question.key, flight)
            return Hit(similar, "semantic-hit", _age_s(similar, question), self._to_check(question))
        if found is Flight.FOLLOW and flight:
            answer = await self._flights.wait(question, wait_s)
            if isinstance(answer, Entry) and self._usable(answer, question):
                self._counts.add(question.team_id, "coalesced")
                return Hit(answer, "hit", 0)
            return _miss(question, answer if isinstance(answer, str) else "")
        return _miss(question, flight)

    async def _look_for_similar(self, question: Question) -> Entry | None:
        similar = self._similar_for(question)
        if similar is None:
            return None
        digest = await similar.find(question.key, question.team_id, question.now_ms)
        if digest is None:
            return None
        entry = await self._entries.get(question.key, digest, question.now_ms)
        if entry is None:
            similar.gone(digest)
        return entry if entry is not None and self._usable(entry, question) else None

    def _similar_for(self, question: Question) -> Similar | None:
        """The semantic step, where the answer to a similar request will do."""
        return self._similar if question.terms.similar and question.key.text is not None else None

    def _to_check(self, question: Question) -> bool:
        return self._similar is not None and self._similar.to_check(question.key)

    def _usable(self, entry: Entry, question: Question) -> bool:
        oldest_s = min(question.terms.max_age_s, self.settings().ttl)
        return entry.model in question.models and _age_s(entry, question) <= oldest_s


def _miss(question: Question, flight: str) -> Miss:
    return Miss("miss", "", _ticket(question, flight) if question.terms.write else None)


def _ticket(question: Question, flight: str) -> Ticket:
    asked = (question.key, question.team_id, question.now_ms)
    return Ticket(*asked, flight, question.request_id, question.traceparent)


def _age_s(entry: Entry, question: Question) -> int:
    return max(0, question.now_ms - entry.stored_ms) // 1000
