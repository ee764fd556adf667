"""The walk's step `reserve`: what a request may cost is held before it is sent.

In: a read request and its targets. Out: a `Hold`: the tokens held, the max_tokens to write, the `x-ratelimit-*`
headers, how much of its budget the team has used; or a 429. One round trip to the ledger. Called by the pipeline; the
settler gives back what was not used.
"""

import math
from collections.abc import Sequence

import msgspec

from extproc.budget.estimate import ENFORCED, HELD, OutputEstimates
from extproc.budget.ledger import Caps, Holds, Refused
from extproc.budget.plan import (
    Estimate,
    Header,
    estimate_for,
    max_tokens_to_write,
    rate_limit_headers,
    refusal,
    reservation_for,
    used_pct,
)
from extproc.chat import texts
from extproc.records import ChatRequest, Priority, Target
from extproc.settings import Team
from extproc.tokens import Estimator

# A strict team's input is held with at least one token for so many bytes of text: no tokenizer in use needs more for
# prose, code or CJK, and what was held too much comes back when the exchange is settled.
STRICT_BYTES_PER_TOKEN = 3


_FREE = Estimate(input_tokens=0, output_tokens=0, output_bounded=True, input_nano_usd=0, output_pico_usd_per_token=0)


class Hold(msgspec.Struct, frozen=True):
    """What was taken for one request."""

    input_tokens: int
    output_tokens: int  # over all choices
    max_tokens: int | None  # to be written into the request, per choice; None: leave what the client sent
    headers: tuple[Header, ...]
    used_pct: float  # of the team's tightest budget, 0 without one


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

    async def reserve(
        self, team: Team, chat: ChatRequest, targets: Sequence[Target], *, hold_id: str, priority: Priority, now_ms: int
    ) -> Hold:
        """Take the hold. Raises RateLimitExceeded, BudgetExceeded, ModelNotAllowed, LimitsUnavailable."""
        estimate = self._estimate(team, chat, targets)
        reservation = reservation_for(
            team, estimate, hold_id=hold_id, priority=priority, now_ms=now_ms, lease_ms=self._lease_ms
        )
        answer = await self._holds.reserve(reservation)
        if isinstance(answer, Refused):
            error = refusal(reservation, answer)
            error.headers = tuple(rate_limit_headers(reservation, answer.standing))
            raise error
        return Hold(
            input_tokens=estimate.input_tokens,
            output_tokens=answer.output_tokens,
            max_tokens=max_tokens_to_write(estimate, answer, strict=team.budget.strict),
            headers=tuple(rate_limit_headers(reservation, answer.standing)),
            used_pct=used_pct(team, answer.standing),
        )

    async def count(self, team: Team, *, hold_id: str, priority: Priority, now_ms: int) -> tuple[Header, ...]:
        """A request that costs nothing, its answer being kept: it counts as one more of the minute's requests.

        No round trip for a team without such a limit. Raises RateLimitExceeded, LimitsUnavailable.
        """
        if team.limits.requests_per_minute is None:
            return ()
        reservation = reservation_for(
            team, _FREE, hold_id=hold_id, priority=priority, now_ms=now_ms, lease_ms=self._lease_ms
        )
        only = Caps(requests_per_minute=reservation.caps.requests_per_minute)
        reservation = msgspec.structs.replace(reservation, caps=only)
        answer = await self._holds.reserve(reservation)
        headers = tuple(rate_limit_headers(reservation, answer.standing))
        if isinstance(answer, Refused):
            error = refusal(reservation, answer)
            error.headers = headers
            raise error
        return headers

    def input_tokens(self, chat: ChatRequest, target: Target) -> int:
        """How many tokens the prompt is for `target`, estimated."""
        return self._estimator.input_tokens(chat.body, target)

    def length(self, team_id: str, chat: ChatRequest, target: Target) -> float:
        """How long an answer may take to write, against what is usual for the model: 1 to 4."""
        return self._outputs.length(team_id, target.model, chat.max_tokens)

    def _estimate(self, team: Team, chat: ChatRequest, targets: Sequence[Target]) -> Estimate:
        """The most that any of the targets would take, for a strict team; what the first would take, for others."""
        strict = team.budget.strict
        looked_at = targets if strict else targets[:1]
        input_tokens = max(self._estimator.input_tokens(chat.body, target) for target in looked_at)
        if strict:
            input_tokens = max(input_tokens, math.ceil(_text_bytes(chat) / STRICT_BYTES_PER_TOKEN))
        first = targets[0]
        output_tokens = self._outputs.ceiling(
            team.id,
            first.model,
            chat.max_tokens,
            first.max_output_tokens,
            n=chat.n,
            policy=ENFORCED if strict else HELD,
        )
        estimates = [
            estimate_for(
                target.price,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                choices=chat.n,
                output_bounded=chat.max_tokens is not None,
            )
            for target in looked_at
        ]
        return max(estimates, key=_cost)


def _text_bytes(chat: ChatRequest) -> int:
    return sum(len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")) for text in texts(chat))


def _cost(estimate: Estimate) -> float:
    """For comparing: an unknown price is the highest, so that a strict budget in USD refuses it."""
    if estimate.input_nano_usd is None or estimate.output_pico_usd_per_token is None:
        return math.inf
    return estimate.input_nano_usd + estimate.output_tokens * estimate.output_pico_usd_per_token / 1000
