"""Usage of teams and the metrics made of it, over HTTP, from a real journal."""

from datetime import UTC, datetime

import pytest

from extproc.settle.journal import Batch, write
from tests.control.reading import NOW_S, Control, control
from tests.settle.builders import audit

__all__ = ["control"]

DAY_S = 86_400.0


class TestUsage:
    async def test_a_teams_usage(self, control: Control) -> None:
        control.write(
            audit("a", received_at=NOW_S),
            audit("b", received_at=NOW_S - DAY_S / 2 + 1, model_used="claude", output_tokens=0),  # since midnight
            audit("c", received_at=NOW_S - DAY_S, cost_nano_usd=None),
            audit("d", received_at=NOW_S - 40 * DAY_S),
            audit("e", received_at=NOW_S, team_id="team-support"),
            audit(
                "f",
                received_at=NOW_S,
                status="refused",
                model_used=None,
                model_routed="",
                input_tokens=0,
                output_tokens=0,
            ),
        )
        _, body = await control.get("/v1/teams/team-search/usage", "team")
        assert body == {
            "team_id": "team-search",
            "daily": {
                "used_tokens": 250,
                "limit_tokens": 1_000,
                "held_tokens": 0,
                "topup_tokens": 0,
                "used_usd": 0.0006,
                "limit_usd": 0.001,
                "held_usd": 0.0,
                "topup_usd": 0.0,
                "unpriced_tokens": 0,
                "resets_at": "2026-11-25T00:00:00.000Z",
                "pct_used": pytest.approx(60.0),  # of the dollars, which are nearer to their limit
            },
            "monthly": {
                "used_tokens": 400,
                "limit_tokens": 10_000,
                "held_tokens": 0,
                "topup_tokens": 0,
                "used_usd": 0.0006,
                "limit_usd": None,
                "held_usd": 0.0,
                "topup_usd": 0.0,
                "unpriced_tokens": 0,
                "resets_at": "2026-12-01T00:00:00.000Z",
                "pct_used": 4.0,
            },
            "top_models": [
                {"model": "gpt", "requests": 2, "tokens": 300, "cost_usd": 0.0002},
                {"model": "claude", "requests": 1, "tokens": 100, "cost_usd": 0.0002},
            ],
            "alert_thresholds_pct": [80.0],
            "auto_downgrade_active": False,
            "source": "audit",  # the ledger is away
        }

    async def test_a_day_is_that_of_the_teams_zone(self, control: Control) -> None:
        """In Kolkata, at 17:30, the day began at 18:30 UTC of the day before."""
        began_s = datetime(2026, 11, 23, 18, 30, tzinfo=UTC).timestamp()
        control.write(
            audit("a", received_at=began_s + 1, team_id="team-support"),
            audit("b", received_at=began_s - 1, team_id="team-support"),
        )
        _, body = await control.get("/v1/teams/team-support/usage", "other")
        assert (body["daily"]["used_tokens"], body["monthly"]["used_tokens"]) == (150, 300)
        assert (body["daily"]["limit_tokens"], body["daily"]["pct_used"]) == (None, None)

    async def test_all_teams(self, control: Control) -> None:
        control.write(
            audit("a", received_at=NOW_S),
            audit("b", received_at=NOW_S, team_id="team-support"),
            audit("c", received_at=NOW_S, team_id="team-support", model_used="claude"),
        )
        _, body = await control.get("/v1/usage")
        assert body["daily"]["used_tokens"] == 450
        assert body["daily"]["used_usd"] == pytest.approx(0.0006)
        assert body["daily"]["limit_tokens"] is None  # one team has none
        assert [(use["model"], use["tokens"]) for use in body["top_models"]] == [("gpt", 300), ("claude", 150)]
        assert [team["team_id"] for team in body["teams"]] == ["team-search", "team-support"]

    async def test_never_more_than_100_percent(self, control: Control) -> None:
        control.write(audit("a", received_at=NOW_S, input_tokens=5_000))
        _, body = await control.get("/v1/teams/team-search/usage")
        assert (body["daily"]["used_tokens"], body["daily"]["pct_used"]) == (5_050, 100.0)


class TestMetrics:
    async def test_prometheus_text(self, control: Control) -> None:
        control.write(audit("a"), audit("b", status="failed", cost_nano_usd=None), audit("c", cached_tokens=30))
        write(control.connection, Batch(counts={"unauthenticated_requests": 4}))
        status, text = await control.get("/metrics", "none")
        assert status == 200
        assert control.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        labels = (
            'gen_ai_operation_name="chat",gen_ai_provider_name="openai",gen_ai_response_model="gpt",team="team-search"'
        )
        for line in (
            f'gen_ai_client_token_usage_sum{{{labels},gen_ai_token_type="input"}} 300',
            f'gen_ai_client_token_usage_count{{{labels},gen_ai_token_type="output"}} 3',
            f'gen_ai_client_token_usage_bucket{{{labels},gen_ai_token_type="input",le="64"}} 0',
            f'gen_ai_client_token_usage_bucket{{{labels},gen_ai_token_type="input",le="256"}} 3',
            f'gen_ai_client_token_usage_bucket{{{labels},gen_ai_token_type="input",le="+Inf"}} 3',
            f'gen_ai_server_request_duration_seconds_count{{{labels},status="success"}} 2',
            f'gen_ai_server_request_duration_seconds_sum{{{labels},status="success"}} 1.8',
            f'gateway_requests_total{{{labels},status="failed"}} 1',
            f'gateway_cost_usd_total{{{labels},status="success"}} 0.0004',
            f'gateway_unpriced_requests_total{{{labels},status="failed"}} 1',
            f'gateway_cached_input_tokens_total{{{labels},status="success"}} 30',
            "gateway_unauthenticated_requests_total 4",
            "gateway_dropped_rows_total 0",
        ):
            assert line in text.splitlines()

    async def test_each_sample_follows_its_type(self, control: Control) -> None:
        control.write(audit("a"))
        _, text = await control.get("/metrics", "none")
        family = ""
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                family = line.split()[2]
            elif not line.startswith("#"):
                assert line.startswith(family)

    async def test_labels_are_escaped(self, control: Control) -> None:
        control.write(audit("a", model_used='a"b\\c\nd'))
        _, text = await control.get("/metrics", "none")
        assert r'gen_ai_response_model="a\"b\\c\nd"' in text
