"""Audit rows over HTTP, from a real journal: fields, filters, pages."""

from typing import Any

from extproc.telemetry.trace_context import context
from tests.control.reading import NOW_S, Control, control
from tests.settle.builders import attempt, audit

__all__ = ["control"]


class TestRequests:
    async def test_a_row_has_the_documented_fields(self, control: Control) -> None:
        silent: dict[str, Any] = {"status": None, "first_byte_ms": None, "total_ms": None}
        control.write(
            audit("a", received_at=NOW_S, completed_at=NOW_S + 0.9, native=True),
            attempt("a", started_at=NOW_S + 0.5, at=NOW_S + 0.9, provider="anthropic"),
            attempt("b"),
            attempt("a", at=NOW_S + 0.5, started_at=NOW_S, verdict="error", flags="a,b", **silent),
        )
        _, body = await control.get("/v1/requests")
        assert body == {
            "requests": [
                {
                    "request_id": "a",
                    "team_id": "team-search",
                    "model_requested": "auto",
                    "model_routed": "gpt",
                    "model_used": "gpt",
                    "provider_used": "openai",
                    "status": "success",
                    "error_code": None,
                    "http_status": 200,
                    "routing_decision": "simple_query",
                    "attempts": 1,
                    "priority": "normal",
                    "stream": True,
                    "native": True,
                    "cache_hit": False,
                    "cache": "bypass",
                    "saved_tokens": 0,
                    "saved_usd": 0.0,
                    "prompt_hash": "ab" * 32,
                    "input_tokens": 100,
                    "output_tokens": 50,
                    "cached_tokens": 0,
                    "cache_write_tokens": 0,
                    "reasoning_tokens": 0,
                    "estimated_input_tokens": 120,
                    "estimated_output_tokens": 300,
                    "estimated": False,
                    "outrun_tokens": 0,
                    "cost_usd": 0.0002,
                    "price_known": True,
                    "finish_reason": "stop",
                    "received_at": "2026-11-24T12:00:00.000Z",
                    "completed_at": "2026-11-24T12:00:00.900Z",
                    "latency_ms": 900.0,
                    "first_byte_ms": 212.0,
                    "gateway_latency_ms": 1.5,
                    "response_bytes": 5000,
                    "details": "via_upstream",
                    "trace_id": context("a", None).trace_id,
                    "steps_us": {},
                    "attempt_log": [
                        {
                            "provider": "openai",
                            "model": "gpt",
                            "verdict": "error",
                            "status": None,
                            "flags": ["a", "b"],
                            "first_byte_ms": None,
                            "total_ms": None,
                            "started_at": "2026-11-24T12:00:00.000Z",
                        },
                        {
                            "provider": "anthropic",
                            "model": "gpt",
                            "verdict": "ok",
                            "status": 200,
                            "flags": [],
                            "first_byte_ms": 200.0,
                            "total_ms": 880.0,
                            "started_at": "2026-11-24T12:00:00.500Z",
                        },
                    ],
                }
            ],
            "next_cursor": None,
        }

    async def test_an_unknown_price_is_shown_as_such(self, control: Control) -> None:
        control.write(audit("a", cost_nano_usd=None))
        _, body = await control.get("/v1/requests")
        assert (body["requests"][0]["cost_usd"], body["requests"][0]["price_known"]) == (None, False)

    async def ids(self, control: Control, query: str, who: str = "admin") -> list[str]:
        status, body = await control.get(f"/v1/requests?{query}", who)
        assert status == 200, body
        return [row["request_id"] for row in body["requests"]]

    async def test_filters(self, control: Control) -> None:
        control.write(
            audit("a", received_at=NOW_S - 300),
            audit("b", received_at=NOW_S - 200, status="failed"),
            audit("c", received_at=NOW_S - 100, model_used="claude"),
            audit("d", received_at=NOW_S - 400, team_id="team-support", model_requested="claude"),
        )
        expected = {
            "": ["c", "b", "a", "d"],
            "limit=2": ["c", "b"],
            "status=failed": ["b"],
            "model=claude": ["c", "d"],
            "team_id=team-support": ["d"],
            "team_id=nobody": [],
            f"since={NOW_S - 200}": ["c", "b"],
            "since=2026-11-24T11:56:40Z": ["c", "b"],
            "since=2026-11-24T12:56:40+01:00": ["c", "b"],
            "since=2026-11-24T12:56:40%2B01:00": ["c", "b"],
            "since=2026-11-24T11:56:40": ["c", "b"],
            "model=claude&status=success&team_id=team-search": ["c"],
        }
        assert {query: await self.ids(control, query) for query in expected} == expected
        assert await self.ids(control, "", "team") == ["c", "b", "a"]
        assert await self.ids(control, "status=failed", "other") == []

    async def test_pages_neither_repeat_nor_skip(self, control: Control) -> None:
        """Many rows share a moment, and new ones come in while pages are turned."""
        control.write(*(audit(f"r{n:03}", received_at=NOW_S + n // 10) for n in range(95)))
        seen: list[str] = []
        cursor = ""
        while True:
            _, body = await control.get(f"/v1/requests?limit=7{cursor}", "team")
            seen += [row["request_id"] for row in body["requests"]]
            control.write(audit(f"new{len(seen)}", received_at=NOW_S + 1_000 + len(seen)))
            if body["next_cursor"] is None:
                break
            cursor = f"&cursor={body['next_cursor']}"
        assert seen == [f"r{n:03}" for n in reversed(range(95))]

    async def test_a_thousand_rows_at_once(self, control: Control) -> None:
        control.write(*(audit(f"r{n}") for n in range(1_001)))
        assert len(await self.ids(control, "limit=1000")) == 1_000
        assert len(await self.ids(control, "")) == 100
