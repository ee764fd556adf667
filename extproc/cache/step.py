"""The cache as the walk sees it: one call, before anything is chosen or held.

In: a read request and who asks. Out: a `Looked`: a hit, or the tape that goes with the request on its way; and the
headers that say so. Called by the pipeline.
"""

from collections.abc import Callable, Mapping

import msgspec

from extproc.budget.ledger import Rider
from extproc.cache.answers import Answers
from extproc.cache.hit import Hit, Question
from extproc.cache.key import key_of, partition_of
from extproc.cache.policy import terms
from extproc.cache.tape import Taker, Tape
from extproc.cache.ticket import Ticket
from extproc.catalog import TeamView
from extproc.chat import GatewayMetadata
from extproc.records import CacheStatus, ChatRequest

STATUS, KEY, AGE = "x-gateway-cache", "x-gateway-cache-key", "age"


class Looked(msgspec.Struct, frozen=True):
    """What came of it. Exactly one of `hit` and `tape` is of use."""

    status: CacheStatus
    headers: tuple[tuple[str, str], ...]
    hit: Hit | None = None
    tape: Tape = Tape()


NOT_LOOKED = Looked("bypass", ((STATUS, "bypass"),))


Ask = Callable[[Mapping[str, str], bytes], bool]  # a request's headers and body


class CacheStep:
    """Bound to a worker's answers and recorder."""

    def __init__(self, answers: Answers, taker: Taker, ask: Ask | None = None) -> None:
        self._answers = answers
        self._taker = taker
        self._ask = ask

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Ask the provider too: the answer given was a similar request's."""
        if self._ask is not None:
            self._ask(headers, body)

    async def look_up(
        self,
        chat: ChatRequest,
        wishes: GatewayMetadata,
        *,
        subject: str,
        team: TeamView,
        request_id: str,
        traceparent: str | None = None,
        cache_control: str,
        now_ms: int,
        rider: Rider | None = None,
    ) -> Looked:
        """`subject`: what the model name stands for. `rider`: the request's hold, to take along if it may be of use.
        Never fails: without a store there is no hit."""
        settings = self._answers.settings()
        allowed = terms(settings, chat, wishes, cache_control)
        if not (allowed.read or allowed.write):
            self._answers.bypassed(team.id, allowed.bypass)
            return NOT_LOOKED
        key = key_of(partition_of(team.id, shared=team.settings.cache.shared), subject, chat)
        question = Question(
            key=key,
            terms=allowed,
            request_id=request_id,
            traceparent=traceparent,
            team_id=team.id,
            models=team.models,
            now_ms=now_ms,
        )
        try:
            found = await self._answers.look_up(question, rider)
        except BaseException:  # its client left: others may wait for it already
            self._taker.give_up(Ticket(key, team.id, now_ms, flight=request_id))
            raise
        headers = ((STATUS, found.status), (KEY, key.digest))
        if isinstance(found, Hit):
            named = ((STATUS, found.status), (KEY, found.entry.key.digest), (AGE, str(found.age_s)))
            return Looked(found.status, named, found)
        return Looked(found.status, headers, tape=Tape(found.ticket, self._taker, 2 * settings.max_entry_bytes))
