"""Any interleaving of everything that can happen to holds, on a real Valkey, against a model in plain Python.

The model is as simple as the promise: a hold is open or closed, a window's counters are sums over holds. After every
step the ledger's counters equal the model's, and used + held stay within limit + burst + top-ups, but for what was used
beyond its hold or without one. At the end every lease runs out, and nothing is held.
"""

import asyncio
import itertools
import math
import os
from dataclasses import replace
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule

from extproc.budget.ledger import (
    Account,
    Admitted,
    Bill,
    Caps,
    HoldClosed,
    Refused,
    Reservation,
    Settlement,
    TopUp,
)
from extproc.budget.plan import caps_for, fit
from extproc.budget.redis import EXPIRE_AT_MOST, RedisLedger
from extproc.budget.windows import Windows, windows_at
from extproc.settings import Budget, Limits
from extproc.state.pipe import open_state
from tests.budget.model import THRESHOLDS, Hold, Model

from .conftest import Valkey

START_MS = 1_932_590_000_000  # 2031-03-29T22:33:20Z: next come a change of clocks in Berlin, and April
TOKENS = st.integers(0, 60)
_teams = itertools.count()


class LedgerMachine(RuleBasedStateMachine):
    """One team, one ledger, one model."""

    url = ""
    holds = Bundle("holds")

    @initialize(
        zone=st.sampled_from(["UTC", "Europe/Berlin", "Pacific/Chatham"]),
        budget=st.fixed_dictionaries(
            {
                "daily_tokens": st.sampled_from([None, 0, 150, 400]),
                "monthly_tokens": st.sampled_from([None, 500, 1000]),
                "daily_usd": st.sampled_from([None, 700e-9, 1500e-9]),
                "monthly_usd": st.sampled_from([None, 3000e-9]),
                "burst_tokens": st.sampled_from([0, 100]),
            }
        ),
        limits=st.sampled_from([{}, {"requests_per_minute": 3}, {"tokens_per_minute": 200, "requests_per_minute": 20}]),
    )
    def begin(self, zone: str, budget: dict[str, Any], limits: dict[str, Any]) -> None:
        self.runner = asyncio.Runner()
        self.client = open_state(self.url, timeout_s=30)
        self.ledger = RedisLedger(self.client)
        self.team = f"stateful-{os.getpid()}-{next(_teams)}"
        self.zone = zone
        self.budget, self.limits = Budget(**budget), Limits(**limits)
        self.now_ms = START_MS
        self.model = Model()
        self.known: dict[str, Hold] = {}
        self.names = (f"hold-{i}" for i in itertools.count())
        self.unacknowledged: dict[str, Hold] = {}

    @property
    def windows(self) -> Windows:
        return windows_at(self.now_ms, self.zone)

    @property
    def counts_minutes(self) -> bool:
        return self.limits.requests_per_minute is not None

    # --- what can happen

    @rule(
        target=holds,
        input_tokens=TOKENS,
        output_tokens=st.integers(0, 80),
        price=st.sampled_from([None, (2, 3000), (1, 0), (0, 6999), (3, 37)]),
        priority=st.sampled_from(["low", "normal", "high"]),
        lease_ms=st.sampled_from([10_000, 90_000, 7_200_000]),
        count=st.integers(1, 5),
    )
    def reserve(self, count: int, **request: Any) -> Any:
        names = (self.reserve_one(next(self.names), **request) for _ in range(count))
        return multiple(*(name for name in names if name))

    def reserve_one(
        self,
        name: str,
        input_tokens: int,
        output_tokens: int,
        price: tuple[int, int] | None,
        priority: Any,
        lease_ms: int,
    ) -> str | None:
        windows = self.windows
        ask = Reservation(
            team_id=self.team,
            hold_id=name,
            now_ms=self.now_ms,
            lease_ms=lease_ms,
            windows=windows,
            caps=caps_for(self.budget, self.limits, priority),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            input_nano_usd=price and input_tokens * price[0],
            output_pico_usd_per_token=price and price[1],
            priority=priority,
        )
        granted, short = fit(ask, self.model.standing(windows, self.now_ms))
        answer = self.run(self.ledger.reserve(ask))
        if short:
            assert isinstance(answer, Refused)
            assert sorted(answer.limits) == sorted(short)
            self.check_waits(ask, answer)
            return None
        hold = Hold(
            windows=windows,
            state="held",
            tokens=input_tokens + granted,
            nano_usd=price and input_tokens * price[0] + math.ceil(Fraction(granted * price[1], 1000)),
            output=granted,
            at_ms=self.now_ms,
            lease_until_ms=self.now_ms + lease_ms,
        )
        self.known[name] = hold
        self.model.post_held(hold, 1)
        if self.counts_minutes:
            self.model.minute[name] = (self.now_ms, hold.tokens)
        assert isinstance(answer, Admitted)
        assert answer.output_tokens == granted
        assert answer.standing == self.model.standing(windows, self.now_ms)
        return name

    @rule(name=holds)
    def reserve_again(self, name: str) -> None:
        hold = self.known[name]
        ask = Reservation(
            team_id=self.team,
            hold_id=name,
            now_ms=self.now_ms,
            lease_ms=1,
            windows=self.windows,
            caps=Caps(daily_tokens=0),
            input_tokens=1,
            output_tokens=1,
        )
        if hold.state == "held":
            answer = self.run(self.ledger.reserve(ask))
            assert isinstance(answer, Admitted)
            assert answer.output_tokens == hold.output
        else:
            with pytest.raises(HoldClosed):
                self.run(self.ledger.reserve(ask))

    @rule(name=holds, share=st.floats(0, 1), beyond=st.sampled_from([0, 0, 0, 1, 50]), priced=st.booleans())
    def settle_a_hold(self, name: str, share: float, beyond: int, priced: bool) -> None:
        hold = self.known[name]
        nano_usd = int((hold.nano_usd or 0) * share) + beyond if priced else None
        self.settle([Bill(name, int(hold.tokens * share) + beyond, nano_usd)])

    @rule(
        names=st.lists(holds, min_size=1, max_size=6, unique=True),
        tokens=TOKENS,
        nano_usd=st.none() | st.integers(0, 100),
    )
    def settle_several(self, names: list[str], tokens: int, nano_usd: int | None) -> None:
        self.settle([Bill(name, tokens + number, nano_usd) for number, name in enumerate(names)])

    @rule(target=holds, tokens=TOKENS, nano_usd=st.none() | st.integers(0, 100))
    def settle_what_was_never_reserved(self, tokens: int, nano_usd: int | None) -> str:
        name = next(self.names)
        self.known[name] = Hold(self.windows)
        self.settle([Bill(name, tokens, nano_usd)])
        return name

    @rule(name=holds)
    def release(self, name: str) -> None:
        hold = self.known[name]
        assert self.run(self.ledger.release(self.team, name)) == hold.state
        if hold.state == "held":
            self.model.post_held(hold, -1)
        elif hold.state == "expired":
            self.model.post_used(hold.windows, hold.tokens, hold.nano_usd, -1)
        if hold.state in ("held", "expired"):
            self.model.minute.pop(name, None)
            self.close(name, "released")

    @rule(target=holds)
    def release_what_was_never_reserved(self) -> str:
        name = next(self.names)
        assert self.run(self.ledger.release(self.team, name)) == "none"
        self.known[name] = Hold(self.windows, "released")
        return name

    @rule(acknowledge=st.booleans())
    def expire(self, acknowledge: bool) -> None:
        acknowledged = sorted(self.unacknowledged) if acknowledge else []
        rows = self.run(self.ledger.expire(self.team, self.now_ms, acknowledged))
        if acknowledge:
            self.unacknowledged.clear()
        for name, hold in self.known.items():
            if hold.state == "held" and hold.lease_until_ms <= self.now_ms:
                self.model.post_held(hold, -1)
                self.model.post_used(hold.windows, hold.tokens, hold.nano_usd)
                hold.state = "expired"
                self.unacknowledged[name] = replace(hold)
        told = {row.hold_id: (row.tokens, row.nano_usd) for row in rows}
        expected = {n: (h.tokens, h.nano_usd) for n, h in self.unacknowledged.items()}
        assert told.items() <= expected.items()
        assert len(told) == min(len(expected), EXPIRE_AT_MOST)

    @rule(ms=st.sampled_from([0, 1, 999, 30_000, 59_999, 60_000, 600_000, 3_600_000, 36_000_000, 90_000_000]))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms

    @rule(
        window=st.sampled_from(["daily", "monthly"]),
        unit=st.sampled_from(["tokens", "nano_usd"]),
        twice=st.booleans(),
    )
    def top_up(self, window: Any, unit: Any, twice: bool) -> None:
        grant = TopUp(
            team_id=self.team, grant_id=next(self.names), window=window, windows=self.windows, unit=unit, amount=50
        )
        assert self.run(self.ledger.top_up(grant)) is True
        if twice:
            assert self.run(self.ledger.top_up(grant)) is False
        account = self.model.account(window, self.windows)
        field_name = f"topup_{unit}"
        self.model.accounts[window, getattr(self.windows, window).id] = msgspec.structs.replace(
            account, **{field_name: getattr(account, field_name) + 50}
        )

    # --- what must hold

    @precondition(lambda self: hasattr(self, "ledger"))
    @invariant()
    def the_ledger_agrees_with_the_model(self) -> None:
        usage = self.run(self.ledger.usage(self.team, self.now_ms, self.windows))
        assert usage.standing == self.model.standing(self.windows, self.now_ms)
        assert usage.open_holds == sum(hold.state == "held" for hold in self.known.values())

    @precondition(lambda self: hasattr(self, "ledger"))
    @invariant()
    def no_limit_is_overrun(self) -> None:
        caps = caps_for(self.budget, self.limits, "high")
        for kind, unit in itertools.product(("daily", "monthly"), ("tokens", "nano_usd")):
            account = self.model.account(kind, self.windows)
            cap = getattr(caps, f"{kind}_{unit}")
            used, held = getattr(account, f"used_{unit}"), getattr(account, f"held_{unit}")
            assert used >= 0
            assert held >= 0
            if cap is not None:
                slack = self.model.slack.get((kind, getattr(self.windows, kind).id, unit), 0)
                assert used + held <= cap + getattr(account, f"topup_{unit}") + slack

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.now_ms += 7_200_000
        self.expire(acknowledge=True)
        self.expire(acknowledge=True)
        for windows in {hold.windows for hold in self.known.values()}:
            standing = self.run(self.ledger.usage(self.team, self.now_ms, windows)).standing
            for kind in ("daily", "monthly"):
                account: Account = getattr(standing, kind)
                assert (account.held_tokens, account.held_nano_usd) == (0, 0)
                assert account == self.model.account(kind, windows)
        self.run(self.client.aclose())
        self.runner.close()

    # --- helpers

    def run(self, call: Any) -> Any:
        return self.runner.run(call)

    def settle(self, bills: list[Bill]) -> None:
        caps, given = caps_for(self.budget, self.limits), self.known[bills[0].hold_id].windows
        states = tuple(self.known[bill.hold_id].state for bill in bills)
        answer = self.run(
            self.ledger.settle(
                Settlement(team_id=self.team, bills=tuple(bills), windows=given, caps=caps, thresholds_pct=THRESHOLDS)
            )
        )
        assert answer.was == states
        for bill in bills:
            self.settled(bill, given)
        names = [bill.hold_id for bill in bills]
        windows = [self.known[name].windows for name in names]
        assert set(answer.crossings) == set().union(*(self.model.crossings(names, each, caps) for each in windows))

    def settled(self, bill: Bill, given: Windows) -> None:
        """In the model."""
        hold = self.known[bill.hold_id]
        if hold.state == "settled":
            return
        within = hold.state in ("held", "expired")
        if not within:
            hold.windows = given
        self.model.allow(
            hold.windows,
            bill.tokens - (hold.tokens if within else 0),
            (bill.nano_usd or 0) - (hold.nano_usd or 0 if within else 0),
        )
        if hold.state == "held":
            self.model.post_held(hold, -1)
            if bill.hold_id in self.model.minute:
                self.model.minute[bill.hold_id] = (hold.at_ms, bill.tokens)
        elif hold.state == "expired":
            self.model.post_used(hold.windows, hold.tokens, hold.nano_usd, -1)
        self.model.post_used(hold.windows, bill.tokens, bill.nano_usd)
        self.close(bill.hold_id, "settled")

    def close(self, name: str, state: str) -> None:
        self.known[name].state = state
        self.unacknowledged.pop(name, None)

    def check_waits(self, ask: Reservation, refused: Refused) -> None:
        """After the waits told, and not a millisecond before, the minute has room (if it ever can)."""
        minute = refused.standing.minute
        for limit, wait_ms in (
            ("requests_per_minute", minute.request_wait_ms),
            ("tokens_per_minute", minute.tokens_wait_ms),
        ):
            least = ask.input_tokens + ask.least_output_tokens if limit == "tokens_per_minute" else 1
            cap = getattr(ask.caps, limit)
            if limit not in refused.limits or least > cap:
                continue
            for at_ms, fits in ((ask.now_ms + wait_ms - 1, False), (ask.now_ms + wait_ms, True)):
                left = [tokens for at, tokens in self.model.minute.values() if at > at_ms - 60_000]
                taken = sum(left) if limit == "tokens_per_minute" else len(left)
                assert (taken + least <= cap) is fits


def test_any_interleaving_keeps_the_promises(valkey: Valkey) -> None:
    LedgerMachine.url = valkey.url
    LedgerMachine.TestCase.settings = settings(
        max_examples=100, stateful_step_count=50, suppress_health_check=list(HealthCheck)
    )
    LedgerMachine.TestCase().runTest()
