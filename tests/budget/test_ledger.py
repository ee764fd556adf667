"""The ledger on a real Valkey: each script by example, then crowds, outages and restarts."""

import asyncio
import signal

import msgspec
import pytest

from extproc.budget.ledger import (
    Account,
    Admitted,
    HoldClosed,
    LedgerUnavailable,
    TopUp,
)
from extproc.budget.redis import CLOSED_KEPT_MS, RedisLedger
from extproc.state.redis_py import connect
from tests.budget.standing import WINDOWS, standing

from .builders import HOUR_MS, NOON_MS, reservation, settlement
from .conftest import OpenLedger, Valkey, gathered


async def test_a_hold_is_taken_from_day_month_and_minute_at_once(ledger: RedisLedger, team: str) -> None:
    answer = await ledger.reserve(
        reservation(
            team, "a", daily_tokens=1000, tokens_per_minute=5000, input_nano_usd=70, output_pico_usd_per_token=2_000
        )
    )
    held = Account(held_tokens=100, held_nano_usd=250)
    assert isinstance(answer, Admitted)
    assert answer.output_tokens == 90
    assert (answer.standing.daily, answer.standing.monthly) == (held, held)
    assert (answer.standing.minute.requests, answer.standing.minute.tokens) == (1, 100)
    assert answer.standing == await standing(ledger, team)
    assert (await ledger.usage(team, NOON_MS, WINDOWS)).open_holds == 1


async def test_settling_replaces_the_hold_by_what_was_used(ledger: RedisLedger, team: str) -> None:
    await ledger.reserve(
        reservation(team, "a", tokens_per_minute=500, input_nano_usd=70, output_pico_usd_per_token=2_000)
    )
    settled = await ledger.settle(settlement(team, "a", 42, 123))
    assert settled.was == ("held",)
    now = await standing(ledger, team)
    assert now.daily == now.monthly == Account(used_tokens=42, used_nano_usd=123)
    assert (now.minute.requests, now.minute.tokens) == (1, 42)
    assert (await ledger.usage(team, NOON_MS, WINDOWS)).open_holds == 0


async def test_settling_twice_charges_once(ledger: RedisLedger, team: str) -> None:
    await ledger.reserve(reservation(team, "a"))
    assert [(await ledger.settle(settlement(team, "a", 42))).was[0] for _ in range(3)] == ["held", "settled", "settled"]
    assert (await standing(ledger, team)).daily.used_tokens == 42


async def test_settling_without_a_hold_charges_the_windows_given(ledger: RedisLedger, team: str) -> None:
    assert (await ledger.settle(settlement(team, "never-reserved", 42, 7))).was == ("none",)
    assert (await ledger.settle(settlement(team, "never-reserved", 42, 7))).was == ("settled",)
    assert (await standing(ledger, team)).monthly == Account(used_tokens=42, used_nano_usd=7)


async def test_a_late_reserve_of_a_settled_or_released_hold_takes_nothing(ledger: RedisLedger, team: str) -> None:
    await ledger.settle(settlement(team, "settled", 5))
    assert await ledger.release(team, "released") == "none"
    for hold in ("settled", "released"):
        with pytest.raises(HoldClosed):
            await ledger.reserve(reservation(team, hold))
    assert (await standing(ledger, team)).daily == Account(used_tokens=5)


async def test_a_hold_is_charged_to_the_windows_it_was_made_in(ledger: RedisLedger, team: str) -> None:
    midnight = WINDOWS.daily.end_ms
    await ledger.reserve(reservation(team, "a", now_ms=midnight - 1))
    await ledger.settle(settlement(team, "a", 42, now_ms=midnight + 1))
    assert (await standing(ledger, team, midnight - 1)).daily == Account(used_tokens=42)
    assert (await standing(ledger, team, midnight)).daily == Account()


async def test_the_same_hold_again_is_the_same_answer(ledger: RedisLedger, team: str) -> None:
    first = await ledger.reserve(reservation(team, "a", daily_tokens=60))
    again = await ledger.reserve(reservation(team, "a", daily_tokens=60))
    assert isinstance(first, Admitted)
    assert again == first
    assert first.output_tokens == 50


async def test_release_gives_everything_back(ledger: RedisLedger, team: str) -> None:
    await ledger.reserve(
        reservation(team, "a", requests_per_minute=1, input_nano_usd=5, output_pico_usd_per_token=5_000)
    )
    assert [await ledger.release(team, "a") for _ in range(2)] == ["held", "released"]
    now = await standing(ledger, team)
    assert now.daily == now.monthly == Account()
    assert (now.minute.requests, now.minute.tokens) == (0, 0)
    assert isinstance(await ledger.reserve(reservation(team, "b", requests_per_minute=1)), Admitted)


async def test_release_after_settling_takes_nothing_back(ledger: RedisLedger, team: str) -> None:
    await ledger.reserve(reservation(team, "a"))
    await ledger.settle(settlement(team, "a", 42))
    assert await ledger.release(team, "a") == "settled"
    assert (await standing(ledger, team)).daily == Account(used_tokens=42)


async def test_what_was_used_after_a_release_is_charged_all_the_same(ledger: RedisLedger, team: str) -> None:
    await ledger.reserve(reservation(team, "a"))
    await ledger.release(team, "a")
    assert (await ledger.settle(settlement(team, "a", 42))).was == ("released",)
    assert (await standing(ledger, team)).daily == Account(used_tokens=42)


class TestExpiry:
    async def test_a_hold_without_settlement_is_charged_as_held(self, ledger: RedisLedger, team: str) -> None:
        await ledger.reserve(reservation(team, "a", input_nano_usd=70, output_pico_usd_per_token=2_000))
        assert await ledger.expire(team, NOON_MS + 59_999) == []
        (row,) = await ledger.expire(team, NOON_MS + 60_000)
        assert (row.hold_id, row.tokens, row.nano_usd, row.output_tokens) == ("a", 100, 250, 90)
        assert row.reserved_at_ms == NOON_MS
        assert (await standing(ledger, team)).daily == Account(used_tokens=100, used_nano_usd=250)

    async def test_it_is_told_until_acknowledged(self, ledger: RedisLedger, team: str) -> None:
        await ledger.reserve(reservation(team, "a"))
        later = NOON_MS + HOUR_MS
        assert [row.hold_id for row in await ledger.expire(team, later)] == ["a"]
        assert [row.hold_id for row in await ledger.expire(team, later)] == ["a"]
        assert await ledger.expire(team, later, ["a"]) == []
        assert (await standing(ledger, team)).daily == Account(unpriced_tokens=100, used_tokens=100)

    @pytest.mark.parametrize("acknowledged", [[], ["a"]])
    async def test_a_late_settlement_corrects_the_charge(
        self, ledger: RedisLedger, team: str, acknowledged: list[str]
    ) -> None:
        await ledger.reserve(reservation(team, "a", input_nano_usd=70, output_pico_usd_per_token=2_000))
        await ledger.expire(team, NOON_MS + HOUR_MS)
        await ledger.expire(team, NOON_MS + HOUR_MS, acknowledged)
        assert (await ledger.settle(settlement(team, "a", 42, 99))).was == ("expired",)
        assert (await standing(ledger, team)).daily == Account(used_tokens=42, used_nano_usd=99)
        assert await ledger.expire(team, NOON_MS + HOUR_MS) == []

    async def test_a_late_release_takes_the_charge_back(self, ledger: RedisLedger, team: str) -> None:
        await ledger.reserve(reservation(team, "a"))
        await ledger.expire(team, NOON_MS + HOUR_MS)
        assert await ledger.release(team, "a") == "expired"
        assert (await standing(ledger, team)).daily == Account()

    async def test_more_holds_than_one_call_takes(self, ledger: RedisLedger, team: str) -> None:
        await gathered([ledger.reserve(reservation(team, str(i))) for i in range(150)])
        seen: set[str] = set()
        while rows := await ledger.expire(team, NOON_MS + HOUR_MS, sorted(seen)):
            seen |= {row.hold_id for row in rows}
        assert len(seen) == 150
        assert (await standing(ledger, team)).daily.used_tokens == 15_000


class TestTogether:
    @pytest.mark.parametrize(
        "limit", [{"daily_tokens": 50 * 100}, {"requests_per_minute": 50}, {"tokens_per_minute": 50 * 100}]
    )
    async def test_200_at_once_at_a_limit_for_50_give_exactly_50(
        self, valkey: Valkey, open_ledger: OpenLedger, team: str, limit: dict[str, int]
    ) -> None:
        gateways = [open_ledger(valkey.url, timeout_s=30) for _ in range(2)]
        asked = [reservation(team, f"hold-{i}", min_output_tokens=90, **limit) for i in range(200)]
        answers = await gathered([gateways[i % 2].reserve(ask) for i, ask in enumerate(asked)])
        assert sum(isinstance(answer, Admitted) for answer in answers) == 50
        assert (await standing(gateways[0], team)).daily.held_tokens == 5000

    async def test_clamping_together_leaves_not_one_token_over(self, ledger: RedisLedger, team: str) -> None:
        asked = [reservation(team, f"hold-{i}", daily_tokens=777) for i in range(40)]
        answers = await gathered([ledger.reserve(ask) for ask in asked])
        assert sum(10 + answer.output_tokens for answer in answers if isinstance(answer, Admitted)) == 777

    async def test_the_same_settlement_from_everywhere_charges_once(self, ledger: RedisLedger, team: str) -> None:
        await ledger.reserve(reservation(team, "a"))
        settled = await gathered([ledger.settle(settlement(team, "a", 42)) for _ in range(50)])
        assert sorted(answer.was[0] for answer in settled) == ["held"] + ["settled"] * 49
        assert (await standing(ledger, team)).daily == Account(used_tokens=42)


class TestServer:
    async def test_reserve_is_one_round_trip(self, own_valkey: Valkey, open_ledger: OpenLedger, team: str) -> None:
        client = connect(own_valkey.url, timeout_s=10)
        ledger = open_ledger(own_valkey.url, timeout_s=10)
        await ledger.reserve(reservation(team, "first"))
        await client.config_resetstat()
        for i in range(20):
            await ledger.reserve(reservation(team, str(i), requests_per_minute=10))
        calls = await client.info("commandstats")
        sent = {name: stats["calls"] for name, stats in calls.items() if "eval" in name or "script" in name}
        assert sent == {"cmdstat_evalsha": 20}
        await client.aclose()

    async def test_a_flushed_script_is_sent_again(self, own_valkey: Valkey, open_ledger: OpenLedger, team: str) -> None:
        client = connect(own_valkey.url, timeout_s=10)
        ledger = open_ledger(own_valkey.url, timeout_s=10)
        await ledger.reserve(reservation(team, "a"))
        await client.script_flush()
        await ledger.reserve(reservation(team, "b"))
        assert (await standing(ledger, team)).daily.held_tokens == 200
        await client.aclose()

    async def test_a_restart_loses_nothing_and_needs_no_new_client(
        self, own_valkey: Valkey, open_ledger: OpenLedger, team: str
    ) -> None:
        client = connect(own_valkey.url, timeout_s=10)
        ledger = open_ledger(own_valkey.url, timeout_s=10)
        await gathered([ledger.reserve(reservation(team, str(i))) for i in range(8)])
        own_valkey.kill()
        with pytest.raises(LedgerUnavailable):
            await ledger.settle(settlement(team, "0", 42))
        own_valkey.start()
        settled = await gathered([ledger.settle(settlement(team, str(i), 42)) for i in range(8)])
        assert {answer.was for answer in settled} == {("held",)}
        assert (await standing(ledger, team)).daily == Account(used_tokens=8 * 42)
        await client.aclose()

    async def test_a_reserve_that_got_no_answer_can_be_repeated(
        self, own_valkey: Valkey, open_ledger: OpenLedger, team: str
    ) -> None:
        ledger = open_ledger(own_valkey.url)
        await ledger.reserve(reservation(team, "a"))
        own_valkey.signal(signal.SIGSTOP)
        with pytest.raises(LedgerUnavailable):
            await ledger.reserve(reservation(team, "b"))
        own_valkey.signal(signal.SIGCONT)
        patient = open_ledger(own_valkey.url, timeout_s=30)
        assert isinstance(await patient.reserve(reservation(team, "b")), Admitted)
        assert (await standing(patient, team)).daily.held_tokens == 200

    async def test_nothing_to_connect_to(self, open_ledger: OpenLedger) -> None:
        ledger = open_ledger("unix:///nonexistent/valkey.sock")
        with pytest.raises(LedgerUnavailable, match="nonexistent"):
            await ledger.usage("team", NOON_MS, WINDOWS)

    async def test_every_key_goes_away_by_itself(self, own_valkey: Valkey, open_ledger: OpenLedger, team: str) -> None:
        client = connect(own_valkey.url, timeout_s=10)
        ledger = open_ledger(own_valkey.url, timeout_s=10)
        rates = {"requests_per_minute": 100, "tokens_per_minute": 10_000}
        for hold in ("open", "settled", "released", "expired"):
            lease_ms = 1 if hold == "expired" else HOUR_MS
            await ledger.reserve(reservation(team, hold, lease_ms=lease_ms, **rates))
        await ledger.settle(settlement(team, "settled", 42))
        await ledger.settle(settlement(team, "no-hold", 42))
        await ledger.release(team, "released")
        await ledger.expire(team, NOON_MS + 1)
        await ledger.top_up(TopUp(team_id=team, grant_id="g", window="daily", windows=WINDOWS, unit="tokens", amount=1))
        left_ms = {key.decode(): await client.pttl(key) for key in await client.keys("*")}
        assert len(left_ms) == 11, "day, month, five holds, leases, unreconciled, minute and its sum"
        assert all(ms > 0 for ms in left_ms.values()), left_ms
        assert left_ms[f"gw:{{{team}}}:hold:settled"] <= CLOSED_KEPT_MS
        await client.aclose()

    async def test_a_hold_of_the_last_month_told_late_does_not_end_the_leases_with_it(
        self, own_valkey: Valkey, open_ledger: OpenLedger, team: str
    ) -> None:
        """While the team is never idle: its workers were without the ledger as the month turned."""
        ledger, march_ms = open_ledger(own_valkey.url, timeout_s=10), NOON_MS + 4 * 24 * HOUR_MS
        await ledger.reserve(reservation(team, "march", now_ms=march_ms))
        await ledger.reserve(reservation(team, "late"))
        await ledger.reserve(reservation(team, "next day", now_ms=march_ms + 24 * HOUR_MS))
        client = connect(own_valkey.url, timeout_s=10)
        ends = {name: await client.pexpiretime(f"gw:{{{team}}}:{name}") for name in ("leases", "monthly:2031-03")}
        await client.aclose()
        assert ends["leases"] == ends["monthly:2031-03"] > march_ms

    async def test_a_caller_that_goes_away_leaves_no_broken_connection(self, ledger: RedisLedger, team: str) -> None:
        for i in range(20):
            call = asyncio.ensure_future(ledger.reserve(reservation(team, f"cancelled-{i}")))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        answers = await gathered([ledger.reserve(reservation(team, f"kept-{i}")) for i in range(20)])
        assert all(isinstance(answer, Admitted) and answer.output_tokens == 90 for answer in answers)


async def test_answers_are_values(ledger: RedisLedger, team: str) -> None:
    answer = await ledger.reserve(reservation(team, "a"))
    with pytest.raises(AttributeError):
        answer.output_tokens = 1  # type: ignore[misc, union-attr]
    assert msgspec.json.decode(msgspec.json.encode(answer), type=Admitted) == answer
