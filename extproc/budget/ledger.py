"""What is asked of the ledger, what it answers, and the protocols that name it.

In: `Reservation` and `Settlement` from the plan and the settler. Out: `Admitted` or `Refused`, `Settled`, `TeamUsage`.
All frozen, no I/O. Tokens are input + output; money is integer nano-USD (1e-9 USD); None is "no limit" or "price not
known".

The life of a hold: reserve -> held -> settle | release | expire (its lease ended) -> settle (late). Whatever the order
and however often each is repeated, a hold is charged once. It is charged to the day and month it was made in.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from extproc.budget.windows import Windows
from extproc.records import Priority

WindowKind = Literal["daily", "monthly"]
Unit = Literal["tokens", "nano_usd"]
LimitName = Literal[
    "requests_per_minute", "tokens_per_minute", "daily_tokens", "monthly_tokens", "daily_nano_usd", "monthly_nano_usd"
]  # the fields of Caps
HoldState = Literal["none", "held", "expired", "released", "settled"]
# Lua's numbers are doubles: one hold's amounts must be exact in them. (The counters are 64-bit integers.)
MAX_AMOUNT = 2**53 - 1


class LedgerUnavailable(Exception):
    """The ledger could not be reached, or did not answer in time: whether the call had its effect is not known."""


class HoldClosed(Exception):
    """A hold of this id was settled, released or expired before this reserve arrived: its caller has moved on."""


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """A team's limits as they apply to one request; None is no limit."""

    daily_tokens: int | None = None
    monthly_tokens: int | None = None
    daily_nano_usd: int | None = None
    monthly_nano_usd: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for a hold of `input_tokens + output_tokens`. `hold_id` makes it repeatable."""

    team_id: str
    hold_id: str
    now_ms: int  # since the epoch
    lease_ms: int  # from now; after it the hold is charged as held
    windows: Windows
    caps: Caps
    input_tokens: int
    output_tokens: int  # the ceiling, over all choices
    min_output_tokens: int = 16  # clamped no lower, else refused; not above output_tokens
    input_nano_usd: int | None = None  # of all input; None: price not known, USD limits are not looked at
    output_pico_usd_per_token: int | None = None  # 1e-12 USD, as prices are
    priority: Priority = "normal"

    @property
    def least_output_tokens(self) -> int:
        """The fewest output tokens worth admitting."""
        return min(self.min_output_tokens, self.output_tokens)

    def held_nano_usd(self, output_tokens: int) -> int | None:
        """What a hold with `output_tokens` costs at most, rounded up; None if a price is not known."""
        if self.input_nano_usd is None or self.output_pico_usd_per_token is None:
            return None
        return self.input_nano_usd - -output_tokens * self.output_pico_usd_per_token // 1000


class Account(msgspec.Struct, frozen=True):
    """One window's counters. `unpriced_tokens` were used at an unknown price: their USD is missing, not 0."""

    used_tokens: int = 0
    held_tokens: int = 0
    topup_tokens: int = 0
    used_nano_usd: int = 0
    held_nano_usd: int = 0
    topup_nano_usd: int = 0
    unpriced_tokens: int = 0


class Minute(msgspec.Struct, frozen=True):
    """The last 60 s, sliding. The waits are set in a refusal only, 0 where that limit is not short."""

    requests: int = 0
    tokens: int = 0
    reset_ms: int = 0  # until it is empty again
    request_wait_ms: int = 0  # until there is room for one more request
    tokens_wait_ms: int = 0  # until there is room for the least this request needs


class Standing(msgspec.Struct, frozen=True):
    """How a team stands after the call."""

    daily: Account
    monthly: Account
    minute: Minute


class Admitted(msgspec.Struct, frozen=True):
    """The hold is taken. `output_tokens` may be less than asked for: then the request's max_tokens must be lowered."""

    output_tokens: int
    standing: Standing
    local: bool = False  # admitted by the outage policy: the ledger knows no hold, settling will charge all the same


class Refused(msgspec.Struct, frozen=True):
    """Nothing was taken; `limits` have no room. There is nothing to settle or release."""

    limits: tuple[LimitName, ...]
    standing: Standing
    local: bool = False


class Bill(msgspec.Struct, frozen=True):
    """What an exchange really used."""

    hold_id: str
    tokens: int
    nano_usd: int | None  # None: price not known


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """What exchanges of a team really used, each of another hold. Where there is no hold `windows` are charged."""

    team_id: str
    bills: tuple[Bill, ...]
    windows: Windows  # of the moment the requests were received
    caps: Caps = Caps()  # limits that alert thresholds are shares of
    thresholds_pct: tuple[float, ...] = ()


class Crossing(msgspec.Struct, frozen=True):
    """A settlement took a window's use to an alert threshold: reported to one caller only, once per window."""

    window: WindowKind
    window_id: str
    unit: Unit
    threshold_pct: float
    used: int  # in `unit`
    limit: int  # in `unit`, top-ups included


class Settled(msgspec.Struct, frozen=True):
    """`was`: what the holds were; `settled` means that one was a repetition, which charged nothing.

    Crossings come again with a repetition, so that an alert is not lost with the settler that was told of it first.
    """

    was: tuple[HoldState, ...]
    crossings: tuple[Crossing, ...] = ()


class Unreconciled(msgspec.Struct, frozen=True):
    """A hold that was charged as held, because nothing settled it within its lease."""

    hold_id: str
    tokens: int
    nano_usd: int | None
    output_tokens: int  # part of tokens
    reserved_at_ms: int


class TeamUsage(msgspec.Struct, frozen=True):
    """A team's counters now."""

    standing: Standing
    open_holds: int


class TopUp(msgspec.Struct, frozen=True, kw_only=True):
    """A one-off addition to one window's limit. `grant_id` makes it repeatable."""

    team_id: str
    grant_id: str
    window: WindowKind
    windows: Windows
    unit: Unit
    amount: int


class Rider:
    """A hold that may be taken within another call to the same server, so that both cost one round trip.

    Whoever makes that call has the server reserve with `key` and `argument`, and leaves what it said in `reply`.
    """

    __slots__ = ("argument", "key", "reply")

    def __init__(self, key: str, argument: bytes) -> None:
        self.key = key
        self.argument = argument
        self.reply: bytes | None = None  # None: it was not taken along, or nobody knows


class Holds(Protocol):
    """What the walk awaits. All raise LedgerUnavailable."""

    def rider(self, reservation: Reservation) -> Rider | None:
        """The hold, to be taken within another call; None where that cannot be."""

    async def reserve(self, reservation: Reservation, rider: Rider | None = None) -> Admitted | Refused:
        """Take a hold, unless `rider` did, or say which limits have no room. Raises HoldClosed if it is over."""

    async def standing(self, team_id: str, windows: Windows, now_ms: int) -> Standing | None:
        """How a team stands, for telling; None if nobody knows."""

    async def release(self, team_id: str, hold_id: str) -> HoldState:
        """Give a hold back whole; tells what it was."""


class Settlements(Protocol):
    """What the settler awaits. Both raise LedgerUnavailable."""

    async def settle(self, settlement: Settlement) -> Settled:
        """Charge what was used, once."""

    async def expire(self, team_id: str, now_ms: int, acknowledged: Sequence[str] = ()) -> list[Unreconciled]:
        """Charge holds whose lease has ended; returns those not acknowledged by an earlier or this call."""


class Accounts(Protocol):
    """What the control plane awaits. Both raise LedgerUnavailable."""

    async def usage(self, team_id: str, now_ms: int, windows: Windows) -> TeamUsage:
        """A team's counters in `windows`."""

    async def top_up(self, grant: TopUp) -> bool:
        """Grant a top-up; False if this grant was made before."""
