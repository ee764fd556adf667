"""The walk's step `reserve`: what a request may cost is held before it is sent.

In: a read request and its targets. Out: first what is to be held, then a `Hold`: the tokens held, the max_tokens to
write, the `x-ratelimit-*` headers, how much of its budget the team has used; or a 429. One round trip to the ledger, or
none where the look-up in the cache took it along. Called by the pipeline; the settler gives back what was not used.
"""

import asyncio
import math
from collections.abc import Sequence

import msgspec

from extproc.bounds import most_input_tokens
from extproc.budget.estimate import ENFORCED, HELD, OutputEstimates
from extproc.budget.ledger import Caps, Holds, Refused, Reservation, Rider, Standing
from extproc.budget.plan import (
    Estimate,
    Header,
    estimate_for,
    max_tokens_to_write,
    rate_limit_headers,
    refusal,
    reservation_for,
)
from extproc.budget.windows import windows_at
from extproc.catalog import TeamView
from extproc.chat import rewritten, text_chars
from extproc.records import ChatRequest, Price, Priority, Target
from extproc.tokens import EXACT_CHARS, Estimator


class Prepared(msgspec.Struct, frozen=True):
    """What is to be held for one request. `rider`: by which another call may take it along."""

    estimate: Estimate
    reservation: Reservation
    strict: bool  # the team's budget is
    counted_tokens: int  # the best estimate of the input
    rider: Rider | None


class Hold(msgspec.Struct, frozen=True):
    """What was taken for one request."""

    input_tokens: int  # held: for a strict team the most that can be billed
    counted_tokens: int  # the best estimate of the same
    output_tokens: int  # over all choices
    max_tokens: int | None  # to be written into the request, per choice; None: leave what the client sent
    headers: tuple[Header, ...]
    standing: Standing  # of the team, after it


class Reserver:
    """Bound to a worker's ledger and what it has learnt. `lease_ms`: after it an unsettled hold is charged as held."""

    def __init__(self, holds: Holds, estimator: Estimator, outputs: OutputEstimates, lease_ms: int) -> None:
        self._holds = holds
        self._estimator = estimator
        self._outputs = outputs
        self._lease_ms = lease_ms

    def use(self, lease_ms: int) -> None:
        """Hold for `lease_ms` from the next request on."""
        self._lease_ms = lease_ms

    async def prepare(
        self,
        team: TeamView,
        chat: ChatRequest,
        targets: Sequence[Target],
        *,
        hold_id: str,
        priority: Priority,
        now_ms: int,
        perhaps: Sequence[Target] = (),
    ) -> Prepared:
        """What is to be held. `perhaps`: what may be tried instead of `targets`, as a strict team's hold must cover it
        too. Raises ModelNotAllowed, InvalidRequest.
        """
        strict = team.settings.budget.strict
        held = counted = self.input_tokens(chat, targets[0])
        if strict:
            looked_at = (*targets, *perhaps)
            held = max(counted, await self._most(chat, looked_at))
            dearest = max((self._estimate(team, chat, targets[0], each.price, held) for each in looked_at), key=_cost)
        else:
            dearest = self._estimate(team, chat, targets[0], targets[0].price, held)
        reservation = reservation_for(
            team.settings,
            team.caps[priority],
            dearest,
            hold_id=hold_id,
            priority=priority,
            now_ms=now_ms,
            lease_ms=self._lease_ms,
        )
        return Prepared(dearest, reservation, strict, counted, self._holds.rider(reservation))

    async def reserve(self, prepared: Prepared) -> Hold:
        """Take the hold, unless its rider did. Raises RateLimitExceeded, BudgetExceeded, LimitsUnavailable."""
        reservation = prepared.reservation
        answer = await self._holds.reserve(reservation, prepared.rider)
        if isinstance(answer, Refused):
            error = refusal(reservation, answer)
            error.headers = tuple(rate_limit_headers(reservation, answer.standing))
            raise error
        return Hold(
            input_tokens=reservation.input_tokens,
            counted_tokens=prepared.counted_tokens,
            output_tokens=answer.output_tokens,
            max_tokens=max_tokens_to_write(prepared.estimate, answer, strict=prepared.strict),
            headers=tuple(rate_limit_headers(reservation, answer.standing)),
            standing=answer.standing,
        )

    async def count(self, team: TeamView, *, hold_id: str, priority: Priority, now_ms: int) -> tuple[Header, ...]:
        """A request that costs nothing, its answer being kept: it counts as one more of the minute's requests.

        A team without such a limit is not counted. Raises RateLimitExceeded, LimitsUnavailable.
        """
        if team.settings.limits.requests_per_minute is None:
            return await self.limits(team, now_ms)
        reservation = self._free(team, hold_id, priority, now_ms)
        only = Caps(requests_per_minute=reservation.caps.requests_per_minute)
        counted = msgspec.structs.replace(reservation, caps=only)
        answer = await self._holds.reserve(counted)
        headers = tuple(rate_limit_headers(reservation, answer.standing))
        if isinstance(answer, Refused):
            error = refusal(counted, answer)
            error.headers = headers
            raise error
        return headers

    async def sign(self, team: TeamView, hold_id: str, now_ms: int) -> None:
        """A hold of nothing, by which the settler finds whose request it was. Raises LimitsUnavailable, HoldClosed."""
        await self._holds.reserve(msgspec.structs.replace(self._free(team, hold_id, "normal", now_ms), caps=Caps()))

    async def limits(self, team: TeamView, now_ms: int) -> tuple[Header, ...]:
        """The `x-ratelimit-*` headers of an answer that takes nothing: how the team stood within the last second.

        Empty for a team without limits, and where nobody knows. Never raises.
        """
        reservation = self._free(team, "", "normal", now_ms)
        if not any(limit is not None for limit in msgspec.structs.astuple(reservation.caps)):
            return ()
        standing = await self._holds.standing(team.id, reservation.windows, now_ms)
        return () if standing is None else tuple(rate_limit_headers(reservation, standing))

    def _free(self, team: TeamView, hold_id: str, priority: Priority, now_ms: int) -> Reservation:
        """Of nothing but a request."""
        return Reservation(
            team_id=team.id,
            hold_id=hold_id,
            now_ms=now_ms,
            lease_ms=self._lease_ms,
            windows=windows_at(now_ms, team.settings.budget.timezone),
            caps=team.caps[priority],
            input_tokens=0,
            output_tokens=0,
            input_nano_usd=0,
            output_pico_usd_per_token=0,
            priority=priority,
        )

    def input_tokens(self, chat: ChatRequest, target: Target) -> int:
        """How many tokens the prompt is for `target`, estimated."""
        return self._estimator.input_tokens(rewritten(chat, target.rewrite).body, target)

    def length(self, team_id: str, chat: ChatRequest, target: Target) -> float:
        """How long an answer may take to write, against what is usual for the model: 1 to 4."""
        return self._outputs.length(team_id, target.model, chat.max_tokens)

    async def _most(self, chat: ChatRequest, targets: Sequence[Target]) -> int:
        """The most input tokens any of the targets can bill; long texts are counted in a thread."""
        encoding = self._estimator.encoding

        def most() -> int:
            return max(most_input_tokens(rewritten(chat, each.rewrite).body, each, encoding) for each in targets)

        return most() if text_chars(chat) <= EXACT_CHARS else await asyncio.to_thread(most)

    def _estimate(self, team: TeamView, chat: ChatRequest, first: Target, price: Price, input_tokens: int) -> Estimate:
        """What the request costs at `price`, with as long an answer as `first` may give."""
        output_tokens = self._outputs.ceiling(
            team.id,
            first.model,
            chat.max_tokens,
            first.max_output_tokens,
            n=chat.n,
            policy=ENFORCED if team.settings.budget.strict else HELD,
        )
        return estimate_for(
            price,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            choices=chat.n,
            output_bounded=chat.max_tokens is not None,
        )


def _cost(estimate: Estimate) -> float:
    """For comparing: an unknown price is the highest, so that a strict budget in USD refuses it."""
    if estimate.input_nano_usd is None or estimate.output_pico_usd_per_token is None:
        return math.inf
    return estimate.input_nano_usd + estimate.output_tokens * estimate.output_pico_usd_per_token / 1000
