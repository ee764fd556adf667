"""The decisions around the ledger, without it: what to ask for, and what its answer means to the client.

In: a team's settings, the estimate of a request, the ledger's answer. Out: `Reservation`; `x-ratelimit-*` headers, the
max_tokens to write, or the error to raise. Pure. Called by the walk.

How limits apply:
- Day and month are calendar windows in the budget's time zone; a minute is the last 60 s, sliding: never more than the
  limit in any 60 s.
- `normal` requests have the limits as configured. `high` may in addition use `burst_tokens` on top of the day's tokens.
  `low` is refused first: one tenth of every limit (rounded down) is out of its reach.
- Near a limit the output is clamped to what is left, over all choices, never below 16 tokens a choice.
- A model without a known price is held and counted in tokens only; under a strict budget in USD it is not allowed.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import cast

import msgspec

from extproc.budget.ledger import MAX_AMOUNT, Account, Admitted, Caps, LimitName, Refused, Reservation, Standing
from extproc.budget.windows import Window, windows_at
from extproc.errors import BudgetExceeded, GatewayError, ModelNotAllowed, RateLimitExceeded
from extproc.pricing import ceiling_rates
from extproc.records import Price, Priority
from extproc.settings import Budget, Limits, Team

MIN_OUTPUT_TOKENS = 16
LOW_PRIORITY_WITHHELD = 10  # one part in so many of each limit is not for low priority
MINUTE_MS = 60_000
NANO_PER_USD = 1_000_000_000

Header = tuple[str, str]


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a request may cost at most, as far as can be known before it is sent."""

    input_tokens: int
    output_tokens: int  # ceiling over all choices
    choices: int = 1
    output_bounded: bool = False  # the client's own max_tokens is this ceiling
    input_nano_usd: int | None = None  # None: price not known
    output_pico_usd_per_token: int | None = None  # 1e-12 USD

    @property
    def priced(self) -> bool:
        """Whether both prices are known."""
        return self.input_nano_usd is not None and self.output_pico_usd_per_token is not None


def estimate_for(
    price: Price, *, input_tokens: int, output_tokens: int, choices: int = 1, output_bounded: bool = False
) -> Estimate:
    """The estimate at `price`: its long-context tier if the input is that long, no cached input, the dearer output.

    Of output no more than the ledger can hold, $9,007: some clients say 2^31 - 1 for "as much as you like".
    """
    of_input, of_output = ceiling_rates(price, input_tokens)
    if of_input is None or of_output is None:
        of_input = of_output = None
    most_tokens = MAX_AMOUNT // (of_output or 1)
    if output_tokens > most_tokens:
        output_tokens, output_bounded = most_tokens, False
    return Estimate(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        choices=choices,
        output_bounded=output_bounded,
        input_nano_usd=None if of_input is None else -(-input_tokens * of_input // 1000),
        output_pico_usd_per_token=of_output,
    )


def nano_usd(usd: float | None) -> int | None:
    """USD as in gateway.yaml -> integer nano-USD."""
    return None if usd is None else round(usd * NANO_PER_USD)


def caps_for(budget: Budget, limits: Limits, priority: Priority = "normal") -> Caps:
    """The limits of a team as they apply to a request of `priority`."""
    caps = Caps(
        daily_tokens=budget.daily_tokens,
        monthly_tokens=budget.monthly_tokens,
        daily_nano_usd=nano_usd(budget.daily_usd),
        monthly_nano_usd=nano_usd(budget.monthly_usd),
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
    )
    if priority == "high" and caps.daily_tokens is not None:
        return msgspec.structs.replace(caps, daily_tokens=caps.daily_tokens + budget.burst_tokens)
    if priority == "low":
        return Caps(**{name: _withhold(limit) for name, limit in msgspec.structs.asdict(caps).items()})
    return caps


def reservation_for(
    team: Team, caps: Caps, estimate: Estimate, *, hold_id: str, priority: Priority, now_ms: int, lease_ms: int
) -> Reservation:
    """What to ask of the ledger; `caps`: the team's, for `priority`.

    Raises ModelNotAllowed for an unpriced model under a strict USD budget.
    """
    budget = team.budget
    if budget.strict and not estimate.priced and (budget.daily_usd is not None or budget.monthly_usd is not None):
        raise ModelNotAllowed(
            f"Team {team.id} has a strict budget in USD; this model has no known price.", param="model"
        )
    return Reservation(
        team_id=team.id,
        hold_id=hold_id,
        now_ms=now_ms,
        lease_ms=lease_ms,
        windows=windows_at(now_ms, budget.timezone),
        caps=caps,
        input_tokens=estimate.input_tokens,
        output_tokens=estimate.output_tokens,
        min_output_tokens=MIN_OUTPUT_TOKENS * estimate.choices,
        input_nano_usd=estimate.input_nano_usd,
        output_pico_usd_per_token=estimate.output_pico_usd_per_token,
        priority=priority,
    )


def fit(reservation: Reservation, standing: Standing) -> tuple[int, tuple[LimitName, ...]]:
    """Output tokens that `standing` has room for, and the limits that have too little: the rule of reserve.lua."""
    caps, granted, short = reservation.caps, reservation.output_tokens, list[LimitName]()
    if caps.requests_per_minute is not None and standing.minute.requests >= caps.requests_per_minute:
        short.append("requests_per_minute")
    for name in msgspec.structs.asdict(caps):
        output = _output_room(cast(LimitName, name), reservation, standing)
        if output is not None:
            granted = min(granted, output)
            if output < reservation.least_output_tokens:
                short.append(cast(LimitName, name))
    return (0, tuple(short)) if short else (granted, ())


def max_tokens_to_write(estimate: Estimate, admitted: Admitted, *, strict: bool) -> int | None:
    """The max_tokens (per choice) the request must be given, or None to leave it as the client sent it."""
    if admitted.output_tokens < estimate.output_tokens or (strict and not estimate.output_bounded):
        return admitted.output_tokens // estimate.choices
    return None


def used_pct(team: Team, standing: Standing) -> float:
    """What the team has used of its budgets, holds not counted: the highest share, 0-100 and beyond."""
    caps = caps_for(team.budget, team.limits)
    shares = [
        _share(standing.daily.used_tokens, caps.daily_tokens, standing.daily.topup_tokens),
        _share(standing.monthly.used_tokens, caps.monthly_tokens, standing.monthly.topup_tokens),
        _share(standing.daily.used_nano_usd, caps.daily_nano_usd, standing.daily.topup_nano_usd),
        _share(standing.monthly.used_nano_usd, caps.monthly_nano_usd, standing.monthly.topup_nano_usd),
    ]
    return max(shares)


def _share(used: int, limit: int | None, top_up: int) -> float:
    if limit is None:
        return 0.0
    return 100.0 * used / (limit + top_up) if limit + top_up > 0 else 100.0


def rate_limit_headers(reservation: Reservation, standing: Standing) -> list[Header]:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, after this request, like OpenAI's.

    Requests: of the minute. Tokens: of the minute, the day or the month, whichever has least left. `reset` is the time
    until that limit is whole again, as `6m0s`, `1s` or `120ms`. Limits that a team does not have are not mentioned.
    """
    headers: list[Header] = []
    requests = _level("requests_per_minute", reservation, standing)
    if requests is not None:
        headers += _headers(_REQUESTS, requests)
    tightest: _Level | None = None
    for name in _OF_TOKENS:
        level = _level(name, reservation, standing)
        if level is not None and (tightest is None or level.left < tightest.left):
            tightest = level
    if tightest is not None:
        headers += _headers(_TOKENS, tightest)
    return headers


def refusal(reservation: Reservation, refused: Refused) -> GatewayError:
    """The 429 of a refusal: it names the limit that keeps the client waiting longest, its use and its reset."""
    levels = [level for name in refused.limits if (level := _level(name, reservation, refused.standing))]
    level = max(levels, key=lambda level: level.wait_ms)
    text = f"{_TEXT[level.name]} of team {reservation.team_id} reached: {_state(level)}."
    needed = reservation.input_tokens + reservation.least_output_tokens
    if "tokens" in level.name:
        text += f" This request needs at least {needed} tokens."
    if refused.local:
        text += " The shared ledger is away: this is the share of one instance."
    if reservation.priority == "low":
        text += " A tenth of the limit is kept from low-priority requests."
    if level.name in _RATES:
        text += f" Please try again in {duration(level.wait_ms)}."
        return RateLimitExceeded(text, retry_after_s=level.wait_ms / 1000)
    resets_at = datetime.fromtimestamp((reservation.now_ms + level.wait_ms) / 1000, UTC)
    text += f" The budget resets at {resets_at:%Y-%m-%dT%H:%M:%SZ}, in {duration(level.wait_ms)}."
    return BudgetExceeded(text, retry_after_s=level.wait_ms / 1000)


def duration(milliseconds: int) -> str:
    """Go's notation, which OpenAI's reset headers use: `120ms`, `1s`, `8.64s`, `6m0s`, `23h59m1s`."""
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    seconds, rest_ms = divmod(milliseconds, 1000)
    part = f".{rest_ms:03}".rstrip("0") if rest_ms else ""
    if seconds < 60:
        return f"{seconds}{part}s"
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}{part}s" if hours else f"{minutes}m{seconds}{part}s"


class _Level(msgspec.Struct, frozen=True):
    """One limit as it stands. Amounts in requests, tokens or nano-USD."""

    name: LimitName
    limit: int  # top-ups included
    used: int  # and held
    left: int  # never below 0
    reset_ms: int
    wait_ms: int  # until a refused request may fit


_RATES = ("requests_per_minute", "tokens_per_minute")
_OF_TOKENS: tuple[LimitName, ...] = ("tokens_per_minute", "daily_tokens", "monthly_tokens")
_TEXT: dict[LimitName, str] = {
    "requests_per_minute": "Rate limit (requests per minute)",
    "tokens_per_minute": "Rate limit (tokens per minute)",
    "daily_tokens": "Daily token budget",
    "monthly_tokens": "Monthly token budget",
    "daily_nano_usd": "Daily budget in USD",
    "monthly_nano_usd": "Monthly budget in USD",
}


def _level(name: LimitName, reservation: Reservation, standing: Standing) -> _Level | None:
    """How limit `name` stands; None if the team does not have it."""
    limit: int | None = getattr(reservation.caps, name)
    if limit is None:
        return None
    minute = standing.minute
    # Without a wait the request can never fit (the limit is 0, or smaller than the request): come back in a minute.
    if name == "requests_per_minute":
        used, reset_ms, wait_ms = minute.requests, minute.reset_ms, minute.request_wait_ms or MINUTE_MS
    elif name == "tokens_per_minute":
        used, reset_ms, wait_ms = minute.tokens, minute.reset_ms, minute.tokens_wait_ms or MINUTE_MS
    else:
        kind, _, unit = name.partition("_")
        account: Account = getattr(standing, kind)
        window: Window = getattr(reservation.windows, kind)
        reset_ms = wait_ms = window.end_ms - reservation.now_ms
        if unit == "tokens":
            limit, used = limit + account.topup_tokens, account.used_tokens + account.held_tokens
        else:
            limit, used = limit + account.topup_nano_usd, account.used_nano_usd + account.held_nano_usd
    return _Level(name, limit, used, max(0, limit - used), reset_ms, wait_ms)


def _output_room(name: LimitName, reservation: Reservation, standing: Standing) -> int | None:
    """Output tokens that limit `name` has room for; below 0 if not even for the input; None if it does not matter."""
    level = _level(name, reservation, standing)
    if level is None or name == "requests_per_minute":
        return None
    left = level.limit - level.used
    if "tokens" in name:
        return left - reservation.input_tokens
    input_nano_usd, per_token = reservation.input_nano_usd, reservation.output_pico_usd_per_token
    if input_nano_usd is None or per_token is None:
        return None
    if per_token == 0:
        return None if left >= input_nano_usd else -1
    return (left - input_nano_usd) * 1000 // per_token


def _state(level: _Level) -> str:
    if level.name.endswith("usd"):
        return f"${level.used / NANO_PER_USD:.6f} of ${level.limit / NANO_PER_USD:.6f} used or held"
    return f"{level.used} of {level.limit} used or held"


def _headers(names: tuple[str, str, str], level: _Level) -> Iterable[Header]:
    return zip(names, (str(level.limit), str(level.left), duration(level.reset_ms)), strict=True)


_REQUESTS = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")
_TOKENS = ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens")


def _withhold(limit: int | None) -> int | None:
    return None if limit is None else limit - limit // LOW_PRIORITY_WITHHELD
