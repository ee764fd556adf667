"""What the ledger lets through, on a real Valkey: limits, the minute, alerts, top-ups."""

import pytest

from extproc.budget.ledger import (
    MAX_AMOUNT,
    Account,
    Admitted,
    Caps,
    Crossing,
    Refused,
    Standing,
    TopUp,
)
from extproc.budget.redis import RedisLedger
from tests.budget.standing import WINDOWS, standing

from .builders import DAY_MS, NOON_MS, reservation, settlement
from .conftest import gathered


class TestLimits:
    @pytest.mark.parametrize("limit", ["daily_tokens", "monthly_tokens", "tokens_per_minute"])
    @pytest.mark.parametrize(("size", "granted"), [(100, 90), (99, 89), (26, 16), (25, None), (10, None), (0, None)])
    async def test_tokens_clamp_then_refuse(
        self, ledger: RedisLedger, team: str, limit: str, size: int, granted: int | None
    ) -> None:
        answer = await ledger.reserve(reservation(team, "a", **{limit: size}))
        if granted is None:
            assert isinstance(answer, Refused)
            assert answer.limits == (limit,)
            assert await standing(ledger, team) == Standing(Account(), Account(), answer.standing.minute)
        else:
            assert isinstance(answer, Admitted)
            assert (answer.output_tokens, answer.standing.daily.held_tokens) == (granted, granted + 10)

    @pytest.mark.parametrize("limit", ["daily_nano_usd", "monthly_nano_usd"])
    @pytest.mark.parametrize(
        ("size", "granted"), [(700, 90), (650, 90), (649, 89), (284, 16), (279, None), (199, None), (0, None)]
    )
    async def test_usd_clamp_then_refuse(
        self, ledger: RedisLedger, team: str, limit: str, size: int, granted: int | None
    ) -> None:
        priced = {"input_nano_usd": 200, "output_pico_usd_per_token": 5_000, limit: size}
        answer = await ledger.reserve(reservation(team, "a", **priced))
        if granted is None:
            assert isinstance(answer, Refused)
            assert answer.limits == (limit,)
        else:
            assert isinstance(answer, Admitted)
            assert (answer.output_tokens, answer.standing.daily.held_nano_usd) == (granted, 200 + 5 * granted)

    async def test_free_output_still_needs_room_for_the_input(self, ledger: RedisLedger, team: str) -> None:
        free_output = {"input_nano_usd": 200, "output_pico_usd_per_token": 0, "daily_nano_usd": 200}
        assert isinstance(await ledger.reserve(reservation(team, "a", **free_output)), Admitted)
        assert isinstance(await ledger.reserve(reservation(team, "b", **free_output)), Refused)

    async def test_an_unknown_price_is_counted_apart(self, ledger: RedisLedger, team: str) -> None:
        answer = await ledger.reserve(reservation(team, "a", daily_nano_usd=0))
        assert isinstance(answer, Admitted)
        await ledger.settle(settlement(team, "a", 42, None))
        assert (await standing(ledger, team)).daily == Account(used_tokens=42, unpriced_tokens=42)

    async def test_fewer_than_16_are_admitted_when_no_more_were_asked_for(self, ledger: RedisLedger, team: str) -> None:
        assert isinstance(await ledger.reserve(reservation(team, "a", output_tokens=3, daily_tokens=13)), Admitted)
        assert isinstance(await ledger.reserve(reservation(team, "b", output_tokens=3, daily_tokens=25)), Refused)

    async def test_all_short_limits_are_named_and_nothing_is_taken(self, ledger: RedisLedger, team: str) -> None:
        caps = {"requests_per_minute": 0, "tokens_per_minute": 9, "daily_tokens": 9, "monthly_tokens": 9}
        answer = await ledger.reserve(reservation(team, "a", **caps))
        assert isinstance(answer, Refused)
        assert sorted(answer.limits) == sorted(caps)
        assert (await ledger.usage(team, NOON_MS, WINDOWS)).open_holds == 0

    async def test_amounts_above_2_to_the_53_are_exact(self, ledger: RedisLedger, team: str) -> None:
        for hold in ("a", "b", "c"):
            await ledger.settle(settlement(team, hold, 0, MAX_AMOUNT))
        limit = {"monthly_nano_usd": 3 * MAX_AMOUNT + 1001, "output_pico_usd_per_token": 1_000, "output_tokens": 20}
        refused = await ledger.reserve(reservation(team, "d", input_nano_usd=1001 - 15, **limit))
        exact = await ledger.reserve(reservation(team, "e", input_nano_usd=1001 - 20, **limit))
        assert (type(refused), type(exact)) == (Refused, Admitted)
        assert isinstance(exact, Admitted)
        assert exact.output_tokens == 20
        spent = exact.standing.monthly
        assert spent.used_nano_usd + spent.held_nano_usd == 3 * MAX_AMOUNT + 1001

    @pytest.mark.parametrize("amount", [-1, MAX_AMOUNT + 1])
    async def test_amounts_out_of_range_are_refused(self, ledger: RedisLedger, team: str, amount: int) -> None:
        with pytest.raises(ValueError, match="amount"):
            await ledger.settle(settlement(team, "a", amount))
        with pytest.raises(ValueError, match="amount"):
            await ledger.reserve(reservation(team, "a", input_tokens=amount))


class TestMinute:
    async def test_never_more_than_the_limit_in_any_60_s(self, ledger: RedisLedger, team: str) -> None:
        async def ask(at: int) -> Admitted | Refused:
            return await ledger.reserve(reservation(team, f"at-{at}", now_ms=NOON_MS + at, requests_per_minute=2))

        assert isinstance(await ask(0), Admitted)
        assert isinstance(await ask(40_000), Admitted)
        refused = await ask(59_999)
        assert isinstance(refused, Refused)
        assert refused.limits == ("requests_per_minute",)
        assert (refused.standing.minute.request_wait_ms, refused.standing.minute.reset_ms) == (1, 40_001)
        assert isinstance(await ask(60_000), Admitted)
        assert isinstance(await ask(60_001), Refused)

    async def test_tokens_wait_until_enough_has_left(self, ledger: RedisLedger, team: str) -> None:
        for at in (0, 10_000, 20_000):
            await ledger.reserve(reservation(team, str(at), now_ms=NOON_MS + at, tokens_per_minute=300))
        late = {"now_ms": NOON_MS + 30_000, "tokens_per_minute": 300}
        refused = await ledger.reserve(reservation(team, "x", input_tokens=150, **late))
        assert isinstance(refused, Refused)
        assert refused.limits == ("tokens_per_minute",)
        assert refused.standing.minute.tokens_wait_ms == 40_000
        late["now_ms"] += 40_000
        answer = await ledger.reserve(reservation(team, "x", input_tokens=150, **late))
        assert isinstance(answer, Admitted)
        assert answer.output_tokens == 50

    async def test_a_settlement_corrects_the_moment_of_its_hold(self, ledger: RedisLedger, team: str) -> None:
        await ledger.reserve(reservation(team, "a", tokens_per_minute=100))
        await ledger.settle(settlement(team, "a", 20))
        answer = await ledger.reserve(reservation(team, "b", now_ms=NOON_MS + 59_999, tokens_per_minute=100))
        assert isinstance(answer, Admitted)
        assert answer.output_tokens == 70
        assert (await standing(ledger, team, NOON_MS + 60_000)).minute.tokens == 80

    async def test_an_idle_minute_starts_empty(self, ledger: RedisLedger, team: str) -> None:
        await ledger.reserve(reservation(team, "a", tokens_per_minute=100))
        minute = (await standing(ledger, team, NOON_MS + 60_000)).minute
        assert (minute.requests, minute.tokens, minute.reset_ms) == (0, 0, 0)


class TestAlerts:
    CAPS = Caps(daily_tokens=1000, monthly_tokens=100_000, daily_nano_usd=10_000)

    async def test_each_threshold_is_told_once_per_window(self, ledger: RedisLedger, team: str) -> None:
        async def use(hold: str, tokens: int, nano_usd: int, now_ms: int = NOON_MS) -> list[tuple[str, float]]:
            charge = settlement(
                team, hold, tokens, nano_usd, now_ms=now_ms, caps=self.CAPS, thresholds_pct=(50.0, 80.0)
            )
            return [(c.unit, c.threshold_pct) for c in (await ledger.settle(charge)).crossings]

        assert await use("a", 499, 0) == []
        assert await use("b", 1, 0) == [("tokens", 50)]
        assert await use("c", 400, 8000) == [("nano_usd", 50), ("tokens", 80), ("nano_usd", 80)]
        assert await use("d", 1000, 8000) == []
        assert await use("e", 600, 0, NOON_MS + DAY_MS) == [("tokens", 50)]

    async def test_a_repeated_settlement_tells_its_crossing_again(self, ledger: RedisLedger, team: str) -> None:
        charge = settlement(team, "a", 900, caps=self.CAPS, thresholds_pct=(80.0,))
        expected = (Crossing("daily", WINDOWS.daily.id, "tokens", 80.0, 900, 1000),)
        assert (await ledger.settle(charge)).crossings == expected
        assert (await ledger.settle(charge)).crossings == expected

    async def test_of_many_at_once_one_is_told(self, ledger: RedisLedger, team: str) -> None:
        charges = [settlement(team, str(i), 100, caps=self.CAPS, thresholds_pct=(80.0,)) for i in range(40)]
        told = [c for settled in await gathered([ledger.settle(c) for c in charges]) for c in settled.crossings]
        assert [crossing.used for crossing in told] == [800]


class TestTopUp:
    @pytest.mark.parametrize("window", ["daily", "monthly"])
    async def test_it_raises_one_windows_limit_once(self, ledger: RedisLedger, team: str, window: str) -> None:
        ask = {f"{window}_tokens": 50, "input_tokens": 50}
        assert isinstance(await ledger.reserve(reservation(team, "a", **ask)), Refused)
        grant = TopUp(team_id=team, grant_id="g", window=window, windows=WINDOWS, unit="tokens", amount=50)
        assert [await ledger.top_up(grant) for _ in range(2)] == [True, False]
        answer = await ledger.reserve(reservation(team, "b", **ask))
        assert isinstance(answer, Admitted)
        assert (answer.output_tokens, getattr(answer.standing, window).topup_tokens) == (50, 50)
        next_month = NOON_MS + 31 * DAY_MS
        assert isinstance(await ledger.reserve(reservation(team, "c", now_ms=next_month, **ask)), Refused)

    async def test_in_usd(self, ledger: RedisLedger, team: str) -> None:
        ask = {"daily_nano_usd": 0, "input_nano_usd": 10, "output_pico_usd_per_token": 1_000}
        grant = TopUp(team_id=team, grant_id="g", window="daily", windows=WINDOWS, unit="nano_usd", amount=100)
        await ledger.top_up(grant)
        assert isinstance(await ledger.reserve(reservation(team, "a", **ask)), Admitted)
        assert isinstance(await ledger.reserve(reservation(team, "b", **ask)), Refused)
