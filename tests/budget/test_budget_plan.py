"""The pure decisions: limits by priority, headers, refusals, max_tokens."""

import pytest

from extproc.budget.ledger import MAX_AMOUNT, Account, Admitted, Caps, Minute, Refused, Reservation, Standing
from extproc.budget.plan import (
    Estimate,
    caps_for,
    duration,
    estimate_for,
    fit,
    max_tokens_to_write,
    rate_limit_headers,
    refusal,
    reservation_for,
)
from extproc.errors import BudgetExceeded, ModelNotAllowed, RateLimitExceeded
from extproc.records import LongContextPrice, Price
from extproc.settings import Budget, Limits, Team

from .builders import NOON_MS
from .builders import reservation as build

BUDGET = Budget(daily_tokens=1000, monthly_tokens=20_000, daily_usd=0.5, burst_tokens=300)
LIMITS = Limits(requests_per_minute=19, tokens_per_minute=5)
UNTIL_MIDNIGHT_MS = 43_200_000


def team(**budget: object) -> Team:
    return Team(id="team-search", keys=["k"], budget=Budget(**budget), limits=Limits())


NOTHING, QUIET = Account(), Minute()


def standing(daily: Account = NOTHING, monthly: Account = NOTHING, minute: Minute = QUIET) -> Standing:
    return Standing(daily, monthly, minute)


class TestCaps:
    def test_normal_has_the_limits_as_configured(self) -> None:
        assert caps_for(BUDGET, LIMITS) == Caps(
            daily_tokens=1000,
            monthly_tokens=20_000,
            daily_nano_usd=500_000_000,
            requests_per_minute=19,
            tokens_per_minute=5,
        )

    def test_high_may_use_the_burst_on_the_day(self) -> None:
        high = caps_for(BUDGET, LIMITS, "high")
        assert (high.daily_tokens, high.monthly_tokens) == (1300, 20_000)

    def test_low_leaves_a_tenth_of_every_limit_but_is_never_shut_out(self) -> None:
        assert caps_for(BUDGET, LIMITS, "low") == Caps(
            daily_tokens=900,
            monthly_tokens=18_000,
            daily_nano_usd=450_000_000,
            requests_per_minute=18,
            tokens_per_minute=5,
        )

    @pytest.mark.parametrize("priority", ["low", "normal", "high"])
    def test_no_limit_stays_no_limit(self, priority: str) -> None:
        assert caps_for(Budget(burst_tokens=5), Limits(), priority) == Caps()  # type: ignore[arg-type]

    @pytest.mark.parametrize(("usd", "nano"), [(0.1, 100_000_000), (1e-9, 1), (9_007_200, 9_007_200_000_000_000)])
    def test_usd_are_integers_of_nano_usd(self, usd: float, nano: int) -> None:
        assert caps_for(Budget(monthly_usd=usd), Limits()).monthly_nano_usd == nano


class TestReservation:
    ESTIMATE = Estimate(input_tokens=7, output_tokens=300, choices=3)

    def reserve(self, of: Team, estimate: Estimate = ESTIMATE) -> Reservation:
        return reservation_for(of, Caps(), estimate, hold_id="h", priority="normal", now_ms=NOON_MS, lease_ms=5)

    def test_each_choice_gets_its_16_tokens(self) -> None:
        assert self.reserve(team()).min_output_tokens == 48

    def test_windows_are_of_the_teams_zone(self) -> None:
        assert self.reserve(team(timezone="Pacific/Kiritimati")).windows.daily.id == "2031-02-28"
        assert self.reserve(team()).windows.daily.id == "2031-02-27"

    def test_an_unpriced_model_is_no_way_around_a_strict_usd_budget(self) -> None:
        with pytest.raises(ModelNotAllowed) as caught:
            self.reserve(team(strict=True, monthly_usd=5))
        assert caught.value.param == "model"
        assert self.reserve(team(strict=True, monthly_tokens=5)).input_nano_usd is None
        assert self.reserve(team(monthly_usd=5)).input_nano_usd is None

    @pytest.mark.parametrize("zone", ["Mars/Olympus_Mons", "", "../etc/passwd", "Europe"])
    def test_an_unknown_zone_is_a_configuration_error(self, zone: str) -> None:
        with pytest.raises(ValueError, match="not a time zone"):
            team(timezone=zone)


class TestMaxTokens:
    @pytest.mark.parametrize(
        ("granted", "bounded", "strict", "written"),
        [
            (300, True, False, None),
            (300, False, False, None),
            (300, True, True, None),
            (300, False, True, 100),
            (299, True, False, 99),
            (48, False, False, 16),
        ],
    )
    def test_written_when_clamped_or_strict(
        self, granted: int, bounded: bool, strict: bool, written: int | None
    ) -> None:
        estimate = Estimate(input_tokens=7, output_tokens=300, choices=3, output_bounded=bounded)
        assert max_tokens_to_write(estimate, Admitted(granted, standing()), strict=strict) == written


class TestHeaders:
    def test_tokens_are_of_the_limit_with_least_left(self) -> None:
        ask = build("t", "h", daily_tokens=1000, monthly_tokens=5000, tokens_per_minute=2000, requests_per_minute=60)
        now = standing(Account(500, 100, 50), Account(4900, 50), Minute(2, 700, 59_000))
        assert dict(rate_limit_headers(ask, now)) == {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "58",
            "x-ratelimit-reset-requests": "59s",
            "x-ratelimit-limit-tokens": "5000",
            "x-ratelimit-remaining-tokens": "50",
            "x-ratelimit-reset-tokens": "36h0m0s",
        }

    def test_top_ups_count_and_nothing_is_below_zero(self) -> None:
        ask = build("t", "h", daily_tokens=1000)
        levels = [dict(rate_limit_headers(ask, standing(Account(used, 0, 50)))) for used in (1040, 1060)]
        assert [level["x-ratelimit-remaining-tokens"] for level in levels] == ["10", "0"]
        assert levels[0]["x-ratelimit-limit-tokens"] == "1050"
        assert levels[0]["x-ratelimit-reset-tokens"] == "12h0m0s"

    def test_limits_a_team_does_not_have_are_not_mentioned(self) -> None:
        assert rate_limit_headers(build("t", "h"), standing()) == []

    @pytest.mark.parametrize(
        ("ms", "text"),
        [
            (0, "0s"), (1, "1ms"), (120, "120ms"), (1000, "1s"), (8640, "8.64s"), (59_999, "59.999s"),
            (60_000, "1m0s"), (360_000, "6m0s"), (86_400, "1m26.4s"), (3_600_000, "1h0m0s"), (86_399_000, "23h59m59s"),
        ],
    )  # fmt: skip
    def test_durations_are_gos(self, ms: int, text: str) -> None:
        assert duration(ms) == text


class TestRefusal:
    def test_a_budget_names_limit_use_and_reset(self) -> None:
        ask = build("team-search", "h", daily_tokens=1000)
        error = refusal(ask, Refused(("daily_tokens",), standing(Account(900, 90))))
        assert isinstance(error, BudgetExceeded)
        assert error.retry_after_s == UNTIL_MIDNIGHT_MS / 1000
        assert error.message == (
            "Daily token budget of team team-search reached: 990 of 1000 used or held."
            " This request needs at least 26 tokens. The budget resets at 2031-02-28T00:00:00Z, in 12h0m0s."
        )

    def test_usd_are_told_in_usd(self) -> None:
        ask = build("t", "h", monthly_nano_usd=5_000_000_000)
        error = refusal(ask, Refused(("monthly_nano_usd",), standing(monthly=Account(0, 0, 0, 4_999_000_000, 500))))
        assert "$4.999001 of $5.000000 used or held" in error.message
        assert "resets at 2031-03-01T00:00:00Z" in error.message

    def test_a_rate_says_when_to_try_again(self) -> None:
        ask = build("t", "h", requests_per_minute=5, priority="low")
        error = refusal(ask, Refused(("requests_per_minute",), standing(minute=Minute(5, 0, 60_000, 1_200))))
        assert isinstance(error, RateLimitExceeded)
        assert error.retry_after_s == 1.2
        assert error.message == (
            "Rate limit (requests per minute) of team t reached: 5 of 5 used or held."
            " A tenth of the limit is kept from low-priority requests. Please try again in 1.2s."
        )

    def test_the_limit_that_keeps_waiting_longest_is_the_one_named(self) -> None:
        ask = build("t", "h", requests_per_minute=1, daily_tokens=0, tokens_per_minute=5)
        refused = Refused(
            ("requests_per_minute", "tokens_per_minute", "daily_tokens"), standing(minute=Minute(1, 0, 60_000, 60_000))
        )
        assert isinstance(refusal(ask, refused), BudgetExceeded)

    def test_a_limit_of_zero_says_to_come_back_in_a_minute(self) -> None:
        ask = build("t", "h", requests_per_minute=0)
        assert refusal(ask, Refused(("requests_per_minute",), standing())).retry_after_s == 60

    def test_a_local_refusal_says_so(self) -> None:
        ask = build("t", "h", daily_tokens=1000)
        error = refusal(ask, Refused(("daily_tokens",), standing(Account(0, 500)), local=True))
        assert "share of one instance" in error.message


def test_fit_takes_the_tightest_limit() -> None:
    priced = {"input_nano_usd": 100, "output_pico_usd_per_token": 5_000}
    ask = build("t", "h", daily_tokens=90, monthly_tokens=70, daily_nano_usd=299, **priced)
    assert fit(ask, standing()) == (39, ())
    assert fit(ask, standing(monthly=Account(held_tokens=60))) == (0, ("monthly_tokens",))


class TestEstimate:
    PRICE = Price(
        input=150_000,
        output=37_500,
        reasoning=40_001,
        long_context=(LongContextPrice(input=300_000, output=900_000, above_input_tokens=200),),
    )

    def test_input_in_nano_and_the_dearer_output_in_pico(self) -> None:
        estimate = estimate_for(self.PRICE, input_tokens=101, output_tokens=50)
        assert (estimate.input_nano_usd, estimate.output_pico_usd_per_token) == (15_150, 40_001)

    def test_a_long_context_costs_its_own_tier(self) -> None:
        estimate = estimate_for(self.PRICE, input_tokens=201, output_tokens=50)
        assert (estimate.input_nano_usd, estimate.output_pico_usd_per_token) == (60_300, 900_000)

    def test_no_more_is_held_than_the_ledger_can_and_a_strict_budget_lets_no_more_through(self) -> None:
        """`max_tokens` of 2^31 - 1, which some clients say for "no limit", of a dear model of unknown limits."""
        price = Price(input=2_500_000, output=10_000_000)
        estimate = estimate_for(
            price, input_tokens=100, output_tokens=128 * (2**31 - 1), choices=128, output_bounded=True
        )
        assert estimate.output_tokens * 10_000_000 <= MAX_AMOUNT < (estimate.output_tokens + 1) * 10_000_000
        admitted = Admitted(estimate.output_tokens, standing())
        assert max_tokens_to_write(estimate, admitted, strict=True) == estimate.output_tokens // 128
        assert max_tokens_to_write(estimate, admitted, strict=False) is None

    @pytest.mark.parametrize("price", [Price(), Price(input=1), Price(output=1)])
    def test_half_a_price_is_none(self, price: Price) -> None:
        estimate = estimate_for(price, input_tokens=1, output_tokens=1)
        assert (estimate.priced, estimate.input_nano_usd, estimate.output_pico_usd_per_token) == (False, None, None)

    def test_a_hold_is_rounded_up(self) -> None:
        ask = build("t", "h", input_nano_usd=5, output_pico_usd_per_token=37)
        assert [ask.held_nano_usd(tokens) for tokens in (0, 1, 27, 28)] == [5, 6, 6, 7]
