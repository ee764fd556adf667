"""What holds while the ledger is away: bounded by this worker's share, or closed."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.budget.ledger import Account, Admitted, LedgerUnavailable, Minute, Refused, Reservation, Rider, Standing
from extproc.budget.outage import FRESH_MS, RETRY_AFTER_MS, GuardedHolds, OutagePolicy
from extproc.budget.windows import windows_at
from extproc.errors import LimitsUnavailable

from .builders import DAY_MS, NOON_MS, reservation, settlement
from .conftest import OpenLedger, Valkey

EMPTY = Minute()


def observe(policy: OutagePolicy, asked: Reservation, standing: Standing) -> None:
    policy.observe(asked.team_id, asked.windows, standing, asked.now_ms)


def admitted_tokens(policy: OutagePolicy, count: int = 50, **changes: object) -> int:
    answers = [policy.reserve(reservation("team", f"hold-{i}", **changes)) for i in range(count)]
    return sum(10 + answer.output_tokens for answer in answers if isinstance(answer, Admitted))


def test_fail_closed_refuses_all() -> None:
    with pytest.raises(LimitsUnavailable) as caught:
        OutagePolicy("fail_closed", 1).reserve(reservation("team", "a"))
    assert (caught.value.http_status, caught.value.retry_after_s) == (503, 1.0)


def test_fail_open_admits_one_share_of_an_unknown_budget() -> None:
    assert admitted_tokens(OutagePolicy("fail_open", 4), daily_tokens=4000) == 1000


def test_fail_open_admits_one_share_of_what_was_left() -> None:
    policy = OutagePolicy("fail_open", 2)
    observe(policy, reservation("team", "a"), Standing(Account(600, 200, 100), Account(600, 200), EMPTY))
    assert admitted_tokens(policy, daily_tokens=1000) == 150  # (1000 + 100 - 800) / 2


def test_a_second_outage_brings_no_second_share() -> None:
    policy = OutagePolicy("fail_open", 2)
    assert admitted_tokens(policy, daily_tokens=1000) == 500
    observe(policy, reservation("team", "b"), Standing(Account(), Account(), EMPTY))
    assert admitted_tokens(policy, daily_tokens=1000) == 0
    assert admitted_tokens(policy, daily_tokens=1000, now_ms=NOON_MS + DAY_MS) == 500


def test_the_month_goes_on_when_the_day_changes() -> None:
    policy = OutagePolicy("fail_open", 1)
    assert admitted_tokens(policy, 5, monthly_tokens=700) == 500
    assert admitted_tokens(policy, 5, monthly_tokens=700, now_ms=NOON_MS + DAY_MS) == 200
    assert admitted_tokens(policy, 9, monthly_tokens=700, now_ms=NOON_MS + 3 * DAY_MS) == 700, "that is in March"


def test_rates_are_shared_by_the_minute() -> None:
    policy = OutagePolicy("fail_open", 3)
    assert admitted_tokens(policy, requests_per_minute=10) == 400
    assert admitted_tokens(policy, requests_per_minute=10, now_ms=NOON_MS + 60_000) == 400
    refused = policy.reserve(reservation("team", "x", requests_per_minute=10, now_ms=NOON_MS + 60_000))
    assert isinstance(refused, Refused)
    assert refused.limits == ("requests_per_minute",)
    assert refused.standing.minute.request_wait_ms == 60_000 - NOON_MS % 60_000


def test_without_limits_all_is_admitted() -> None:
    assert admitted_tokens(OutagePolicy("fail_open", 9), 50) == 5000


@given(
    workers=st.integers(1, 5),
    limit=st.integers(0, 2000),
    used=st.integers(0, 2500),
    asks=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 100), st.integers(0, 300)), max_size=60),
)
def test_all_workers_together_stay_within_what_was_left(
    workers: int, limit: int, used: int, asks: list[tuple[int, int, int]]
) -> None:
    policies = [OutagePolicy("fail_open", workers) for _ in range(workers)]
    for policy in policies:
        observe(policy, reservation("team", "seen"), Standing(Account(used_tokens=used), Account(), EMPTY))
    total = 0
    for i, (worker, input_tokens, output_tokens) in enumerate(asks):
        ask = reservation("team", str(i), daily_tokens=limit, input_tokens=input_tokens, output_tokens=output_tokens)
        answer = policies[worker % workers].reserve(ask)
        if isinstance(answer, Admitted):
            total += input_tokens + answer.output_tokens
    assert total <= max(0, limit - used)


class Away:
    """A ledger that cannot be reached; counts how often it was tried."""

    tried = 0

    async def reserve(self, reservation: Reservation, rider: Rider | None = None) -> Admitted | Refused:
        self.tried += 1
        raise LedgerUnavailable("away")

    async def release(self, team_id: str, hold_id: str) -> str:
        raise LedgerUnavailable("away")


async def test_a_ledger_that_failed_is_left_alone_for_a_while() -> None:
    away = Away()
    guarded = GuardedHolds(away, OutagePolicy("fail_open", 1))  # type: ignore[arg-type]
    for at_ms in (0, 1, RETRY_AFTER_MS - 1, RETRY_AFTER_MS, RETRY_AFTER_MS + 1):
        answer = await guarded.reserve(reservation("team", str(at_ms), now_ms=NOON_MS + at_ms))
        assert isinstance(answer, Admitted)
        assert answer.local
    assert away.tried == 2


class Counted:
    """A ledger that says how often it was asked; `answers` False: it is away."""

    def __init__(self) -> None:
        self.asked, self.answers = 0, True

    async def standing(self, *_: object) -> Standing:
        self.asked += 1
        if not self.answers:
            raise LedgerUnavailable("away")
        return Standing(Account(used_tokens=self.asked), Account(), Minute())


async def test_what_the_ledger_told_is_told_on_for_a_second() -> None:
    ledger = Counted()
    guarded = GuardedHolds(ledger, OutagePolicy("fail_closed", 1))  # type: ignore[arg-type]

    async def used(after_ms: int) -> int | None:
        now_ms = NOON_MS + after_ms
        standing = await guarded.standing("team", windows_at(now_ms), now_ms)
        return None if standing is None else standing.daily.used_tokens

    ledger.answers = False
    assert await used(0) is None
    ledger.answers = True
    assert [await used(at) for at in (0, FRESH_MS - 1, FRESH_MS)] == [2, 2, 3]
    ledger.answers = False
    assert await used(3 * FRESH_MS) == 3
    assert await used(86_400_000) == 0, "yesterday's use is not today's"


async def test_an_outage_from_beginning_to_end(own_valkey: Valkey, open_ledger: OpenLedger, team: str) -> None:
    """Admitted before, during and after: the ledger ends with every token, within the limit."""
    ledger = open_ledger(own_valkey.url, timeout_s=10)
    guarded = GuardedHolds(ledger, OutagePolicy("fail_open", 2))
    now_ms, admitted, local = NOON_MS, [], 0
    for i in range(60):
        now_ms += 2 * RETRY_AFTER_MS
        if i == 5:
            own_valkey.kill()
        if i == 30:
            own_valkey.start()
        answer = await guarded.reserve(reservation(team, str(i), daily_tokens=2000, now_ms=now_ms))
        if isinstance(answer, Admitted):
            admitted.append((str(i), 10 + answer.output_tokens))
            local += answer.local
    for hold, tokens in admitted:
        await ledger.settle(settlement(team, hold, tokens, now_ms=now_ms))
    daily = (await ledger.usage(team, now_ms, windows_at(now_ms))).standing.daily
    assert local == 8, "one share of two: (2000 - 500) / 2 tokens, the last hold clamped"
    assert (daily.used_tokens, daily.held_tokens) == (sum(tokens for _, tokens in admitted), 0)


async def test_what_was_admitted_meanwhile_is_held_once_the_ledger_is_back(
    own_valkey: Valkey, open_ledger: OpenLedger, team: str
) -> None:
    """But for what was settled by then, however late the ledger is told of it."""
    ledger = open_ledger(own_valkey.url, timeout_s=10)
    guarded = GuardedHolds(ledger, OutagePolicy("fail_open", 1))
    own_valkey.kill()
    for hold in ("open", "settled", "clamped"):
        answer = await guarded.reserve(reservation(team, hold, daily_tokens=250))
        assert isinstance(answer, Admitted)
        assert answer.local
    own_valkey.start()
    await ledger.settle(settlement(team, "settled", 70))

    async def daily() -> Account:
        return (await ledger.usage(team, NOON_MS, windows_at(NOON_MS))).standing.daily

    async with asyncio.timeout(15):
        while (await daily()).held_tokens < 100 + 50:  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.05)
    (expired,) = [hold for hold in await ledger.expire(team, NOON_MS + DAY_MS) if hold.hold_id == "open"]
    assert expired.tokens == 100
    assert (await daily()).used_tokens == 70 + 100 + 50, "as held, of those that nobody settled"


async def test_a_ledger_that_is_left_alone_takes_no_hold_along(valkey: Valkey, open_ledger: OpenLedger) -> None:
    guarded = GuardedHolds(open_ledger(valkey.url, timeout_s=10), OutagePolicy("fail_open", 1))
    assert guarded.rider(reservation("team", "a")) is not None
    away = GuardedHolds(Away(), OutagePolicy("fail_open", 1))  # type: ignore[arg-type]
    await away.reserve(reservation("team", "a"))
    assert away.rider(reservation("team", "b", now_ms=NOON_MS + 1)) is None
