"""Budgets over HTTP, on a real Valkey: top-ups, usage from the ledger, metrics."""

from pathlib import Path
from typing import Any

import pytest

from extproc.budget.ledger import Admitted
from extproc.budget.windows import windows_at
from extproc.settle.dues import Alert, Charged
from extproc.settle.journal import Batch, write
from extproc.settle.journal import connect as connect_journal
from extproc.settle.outbox import Outbox
from tests.budget.builders import reservation, settlement
from tests.budget.conftest import valkey
from tests.control.teams import NOW_S, TOPUP, Control, control
from tests.settle.builders import audit

__all__ = ["control", "valkey"]

NOW_MS = round(NOW_S * 1000)


class TestTopUp:
    async def test_it_is_granted_once_for_each_key(self, control: Control) -> None:
        status, body = await control.top_up("k1")
        assert status == 200
        assert body == {"team_id": "a", **TOPUP, "window_id": "2031-02-27", "repeated": False}
        _, again = await control.top_up("k1")
        assert again == body | {"repeated": True}
        await control.top_up("k2", amount=1)
        _, shown = await control.call("GET", "/v1/teams/a")
        assert shown["topups"]["daily"] == {"tokens": 501, "usd": 0.0}
        assert [entry["topup"]["amount"] for entry in await control.log()] == [1, 500]

    async def test_a_repetition_after_midnight_grants_nothing_more(self, control: Control) -> None:
        await control.top_up("k1")
        control.now_s += 86_400
        _, body = await control.top_up("k1")
        assert (body["window_id"], body["repeated"]) == ("2031-02-27", True)
        _, shown = await control.call("GET", "/v1/teams/a")
        assert shown["topups"]["daily"]["tokens"] == 0

    async def test_usd(self, control: Control) -> None:
        await control.top_up("k", window="monthly", unit="usd", amount=0.25)
        _, body = await control.call("GET", "/v1/teams/a/usage")
        assert (body["monthly"]["limit_usd"], body["monthly"]["topup_usd"]) == (2.25, 0.25)

    @pytest.mark.parametrize(
        ("changes", "param"),
        [
            ({"amount": 0}, "amount"),
            ({"amount": -5}, "amount"),
            ({"amount": 1.5}, "amount"),
            ({"amount": 1e30, "unit": "usd", "window": "monthly"}, "amount"),
            ({"amount": 1e300, "unit": "usd", "window": "monthly"}, "amount"),
            ({"amount": "many"}, "amount"),
            ({"window": "weekly"}, "window"),
            ({"window": "monthly"}, "window"),  # no monthly limit in tokens to add to
            ({"unit": "eur"}, "unit"),
            ({"note": "x"}, "note"),
        ],
    )
    async def test_what_is_wrong_is_named(self, control: Control, changes: dict[str, Any], param: str) -> None:
        status, body = await control.top_up("k", **changes)
        assert (status, body["error"]["param"]) == (400, param)
        assert await control.log() == []

    async def test_it_is_told_in_the_words_of_json(self, control: Control) -> None:
        for changes, told in (
            ({"amount": "5"}, "amount: expected number, got string."),
            ({"window": "weekly"}, "window: must be daily or monthly."),
        ):
            assert (await control.top_up("k", **changes))[1]["error"]["message"] == told

    async def test_what_is_missing_is_named(self, control: Control) -> None:
        status, body = await control.call("POST", "/v1/teams/a/topups", {"unit": "usd", "amount": 1})
        assert (status, body["error"]["param"]) == (400, "window")
        status, body = await control.call("POST", "/v1/teams/a/topups", TOPUP)
        assert (status, body["error"]["param"]) == (400, "idempotency-key")

    async def test_one_key_for_two_top_ups_is_a_mistake(self, control: Control) -> None:
        await control.top_up("k")
        status, body = await control.top_up("k", amount=6)
        assert (status, body["error"]["param"]) == (400, "idempotency-key")

    async def test_it_is_room(self, control: Control) -> None:
        """1000 a day, 900 of them used: 300 fit only after a top-up."""
        windows = windows_at(NOW_MS)
        await control.ledger.settle(settlement("a", "h0", 900, windows=windows))
        ask = {"now_ms": NOW_MS, "daily_tokens": 1000, "input_tokens": 200, "output_tokens": 100}
        assert not isinstance(await control.ledger.reserve(reservation("a", "h1", **ask)), Admitted)
        await control.top_up("k")
        assert isinstance(await control.ledger.reserve(reservation("a", "h2", **ask)), Admitted)


class TestUsage:
    async def test_from_the_ledger(self, control: Control) -> None:
        windows = windows_at(NOW_MS)
        await control.ledger.settle(settlement("a", "h0", 600, 1_500_000_000, windows=windows))
        await control.ledger.settle(settlement("a", "h1", 10, None, windows=windows))
        await control.ledger.reserve(reservation("a", "h2", now_ms=NOW_MS))
        await control.top_up("k")
        _, body = await control.call("GET", "/v1/teams/a/usage", who="team")
        assert body["source"] == "ledger"
        daily = body["daily"]
        assert (daily["used_tokens"], daily["held_tokens"], daily["unpriced_tokens"]) == (610, 100, 10)
        assert (daily["limit_tokens"], daily["topup_tokens"]) == (1500, 500)
        assert daily["pct_used"] == pytest.approx(100 * 610 / 1500)
        assert (body["monthly"]["used_usd"], body["monthly"]["pct_used"]) == (1.5, 75.0)
        assert body["auto_downgrade_active"] is True

    async def test_all_teams(self, control: Control) -> None:
        for team in ("a", "b"):
            await control.ledger.settle(settlement(team, "h0", 100, windows=windows_at(NOW_MS)))
        _, body = await control.call("GET", "/v1/usage")
        assert (body["source"], body["daily"]["used_tokens"], body["daily"]["limit_tokens"]) == ("ledger", 200, None)
        assert body["auto_downgrade_active"] is False

    async def test_with_the_ledger_away_nothing_is_changed_and_that_is_said(self, tmp_path: Path) -> None:
        async with Control(tmp_path, "unix:///nonexistent/v.sock") as alone:
            for method, path, body in (
                ("PATCH", "/v1/teams/a", {"budget": {"daily_tokens": 5}}),
                ("POST", "/v1/teams/a/topups", TOPUP),
                ("GET", "/v1/audit", None),
            ):
                status, answer = await alone.call(method, path, body, **{"idempotency-key": "k"})
                assert (status, answer["error"]["code"]) == (503, "state_unavailable")
            _, usage = await alone.call("GET", "/v1/teams/a/usage")
            assert usage["source"] == "audit"
            _, team = await alone.call("GET", "/v1/teams/a")
            assert team["topups"] is None


class TestMetrics:
    async def metrics(self, control: Control) -> list[str]:
        async with control.http.get("http://gateway/metrics") as answer:
            return (await answer.text()).splitlines()

    async def test_budgets(self, control: Control) -> None:
        await control.ledger.settle(settlement("a", "h0", 600, 1_500_000_000, windows=windows_at(NOW_MS)))
        await control.ledger.reserve(reservation("a", "h1", now_ms=NOW_MS))
        await control.top_up("k")
        lines = await self.metrics(control)
        for line in (
            'gateway_budget_used{team="a",window="daily",unit="tokens"} 600',
            'gateway_budget_used{team="a",window="monthly",unit="usd"} 1.5',
            'gateway_budget_held{team="a",window="monthly",unit="tokens"} 100',
            'gateway_budget_limit{team="a",window="daily",unit="tokens"} 1500',
            'gateway_budget_limit{team="a",window="monthly",unit="usd"} 2',
            'gateway_budget_used{team="b",window="daily",unit="tokens"} 0',
            "gateway_ledger_up 1",
        ):
            assert line in lines
        assert not [line for line in lines if line.startswith('gateway_budget_limit{team="b"')], "b has no limit"

    async def test_what_settling_owes_and_what_was_refused(self, control: Control) -> None:
        journal = connect_journal(control.paths.journal)
        lost = audit("u", team_id="a", status="failed", error_code="unreconciled", completed_at=NOW_S)
        refused = [
            audit(name, team_id="a", status="refused", error_code=code, completed_at=NOW_S - 40)
            for name, code in (("r1", "budget_exceeded"), ("r2", "budget_exceeded"), ("r3", "rate_limit_exceeded"))
        ]
        write(journal, Batch([*refused, lost]))
        outbox = Outbox(control.paths.journal)
        outbox.charged(Charged([row.id for row in outbox.uncharged(10)][2:], NOW_S, [Alert("x", "a", "{}")]))
        lines = await self.metrics(control)
        for line in (
            'gateway_refused_requests_total{team="a",reason="budget_exceeded"} 2',
            'gateway_refused_requests_total{team="a",reason="rate_limit_exceeded"} 1',
            'gateway_unreconciled_requests_total{team="a"} 1',
            'gateway_budget_alerts_total{team="a"} 1',
            "gateway_budget_alerts_waiting 1",
            "gateway_settlement_outbox 2",
            "gateway_settlement_lag_seconds 40",
        ):
            assert line in lines
        late = audit("u", team_id="a", completed_at=NOW_S)  # the request's own row came after all
        write(journal, Batch([late]))
        journal.close()
        outbox.close()
        assert 'gateway_unreconciled_requests_total{team="a"} 0' in await self.metrics(control)

    async def test_with_the_ledger_away(self, tmp_path: Path) -> None:
        async with Control(tmp_path, "unix:///nonexistent/v.sock") as alone:
            lines = await self.metrics(alone)
        assert "gateway_ledger_up 0" in lines
        assert not [line for line in lines if line.startswith("gateway_budget_used{")]
