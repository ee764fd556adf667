"""Providers over the control API: what is told of them, and what an administrator's word does, on a real Valkey."""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from control.providers import families, silence
from control.providers import read as read_health
from extproc import runtime
from extproc.routing import shared
from extproc.routing.breaker import Circuit
from extproc.routing.health import Health, Seen, figures
from extproc.settings import Breaker
from extproc.settle.health import HealthFile
from tests.budget.conftest import Valkey, valkey
from tests.control.teams import NOW_S, Control, control

__all__ = ["control", "valkey"]

ALL = {"ok": ("ok", 200), "error": ("error", 500), "rate_limited": ("rate_limited", 429)}


def seen(ending: Any, ago_s: float = 30.0, **changes: Any) -> tuple[float, Seen]:
    given = {"provider": "openai", "model": "gpt", "ending": ending, "status": ALL[ending][1]}
    return ago_s, Seen(**(given | {"began_s": NOW_S - ago_s, "ended_s": NOW_S - ago_s} | changes))


def keep(control: Control, *observed: tuple[float, Seen], **changes: Any) -> None:
    """Write what a settler would have written."""
    health = Health(Breaker())
    for ago_s, each in sorted(observed, key=lambda one: -one[0]):
        health.count(each, NOW_S - ago_s)
    told = {key: figures(record) for key, record in health.records(NOW_S).items()}
    file = HealthFile({}, {}, frozenset(), told, {})
    control.paths.health.write_bytes(msgspec.json.encode(msgspec.structs.replace(file, **changes)))


async def health(control: Control, name: str = "openai") -> dict[str, Any]:
    status, body = await control.call("GET", "/v1/providers/health", who="team")
    assert status == 200
    return next(provider for provider in body["providers"] if provider["provider"] == name)


class TestHealth:
    async def test_before_the_first_attempt(self, control: Control) -> None:
        found = await health(control)
        assert found["status"] == "unknown"
        assert found["circuit"] == "closed"
        assert found["error_rate_1m"] == found["error_rate_5m"] == 0.0
        names = ("p50_latency_ms", "p99_latency_ms", "last_failure_at", "last_success_at")
        assert [found[name] for name in names] == [None] * 4

    async def test_rates_latencies_and_moments(self, control: Control) -> None:
        keep(
            control,
            *(seen("ok", 30, first_byte_ms=float(n + 1)) for n in range(100)),
            *(seen("error", 200, first_byte_ms=9_999.0) for _ in range(50)),
            *(seen("ok", 200, first_byte_ms=50.0) for _ in range(50)),
            *(seen("error", 400) for _ in range(50)),
            seen("error", 20, provider="anthropic", model="claude"),
        )
        found = await health(control)
        assert (found["status"], found["error_rate_1m"], found["error_rate_5m"]) == ("healthy", 0.0, 0.25)
        assert found["p50_latency_ms"] == pytest.approx(50, rel=0.01)
        assert found["p99_latency_ms"] == pytest.approx(98, rel=0.02)
        assert found["attempts_5m"] == 200
        assert found["last_failure_at"] < found["last_success_at"]
        (model,) = found["models"]
        assert (model["model"], model["error_rate_5m"]) == ("gpt", 0.25)

    @pytest.mark.parametrize(
        ("ok", "error", "rate_limited", "status"),
        [
            (100, 4, 0, "healthy"),
            (100, 6, 0, "degraded"),
            (0, 2, 0, "degraded"),
            (0, 3, 0, "down"),
            (5, 5, 0, "down"),
            (6, 5, 0, "degraded"),
            (0, 0, 50, "degraded"),  # it works, only not so much at once
        ],
    )
    async def test_what_a_provider_is_called(
        self, control: Control, ok: int, error: int, rate_limited: int, status: str
    ) -> None:
        endings = ["ok"] * ok + ["error"] * error + ["rate_limited"] * rate_limited
        keep(control, *(seen(ending) for ending in endings))
        assert (await health(control))["status"] == status

    async def test_a_quiet_minute_falls_back_to_the_last_five(self, control: Control) -> None:
        keep(control, *(seen("error", 200) for _ in range(5)))
        assert (await health(control))["status"] == "down"

    async def test_circuits_and_rate_limits(self, control: Control) -> None:
        circuits = {"openai": Circuit("open", "credential", until_s=NOW_S + 5, version=1)}
        keep(control, circuits=circuits, limited_until_s={"anthropic": NOW_S + 7})
        found = await health(control)
        assert (found["circuit"], found["status"], found["circuit_reason"]) == ("open", "down", "credential")
        other = await health(control, "anthropic")
        assert (other["circuit"], other["rate_limited_until"] is not None) == ("closed", True)
        control.now_s += 5
        assert (await health(control))["circuit"] == "half-open"

    async def test_a_broken_file_is_as_good_as_none(self, control: Control) -> None:
        control.paths.health.write_bytes(b"{")
        assert (await health(control))["status"] == "unknown"


class TestByHand:
    async def test_drain_and_enable(self, control: Control, caplog: pytest.LogCaptureFixture) -> None:
        opened = Circuit("open", until_s=NOW_S + 60, version=7)
        await shared.write(control.client, {"openai": opened, "openai/gpt": opened}, {"openai": NOW_S + 60})
        assert await control.call("POST", "/v1/providers/openai/drain") == (
            200,
            {"provider": "openai", "drained": True},
        )
        assert (await shared.read(control.client)).drained == {"openai"}
        status, body = await control.call("POST", "/v1/providers/openai/enable")
        assert (status, body) == (200, {"provider": "openai", "drained": False})
        told = await shared.read(control.client)
        assert told.drained == frozenset()
        assert {key: circuit.state for key, circuit in told.circuits.items()} == {
            "openai": "closed",
            "openai/gpt": "closed",
        }
        assert all(circuit.version > opened.version for circuit in told.circuits.values())
        assert [r.message for r in caplog.records if r.name == "control.providers"] == [
            "provider drained",
            "provider enabled",
        ]

        entries = [(entry["action"], entry["provider"]) for entry in await control.log()]
        assert entries == [("provider.enable", "openai"), ("provider.drain", "openai")]

    @pytest.mark.parametrize("action", ["drain", "enable"])
    async def test_who_may(self, control: Control, action: str) -> None:
        path = f"/v1/providers/openai/{action}"
        assert (await control.call("POST", path, who="team"))[0] == 403
        assert (await control.call("POST", path, who="unknown"))[0] == 401
        status, body = await control.call("POST", f"/v1/providers/nobody/{action}")
        assert (status, body["error"]["code"]) == (404, "not_found")
        assert (await shared.read(control.client)).drained == frozenset()

    async def test_with_the_shared_state_away_nothing_changes(self, control: Control, valkey: Valkey) -> None:
        valkey.kill()
        try:
            status, body = await control.call("POST", "/v1/providers/openai/drain")
            assert (status, body["error"]["code"]) == (503, "state_unavailable")
        finally:
            await asyncio.to_thread(valkey.start)


def lines(control: Control, names: Iterable[str]) -> dict[str, list[float]]:
    settings = runtime.read(control.paths.runtime)
    found = {family.name: family for family in families(settings, read_health(control.paths.health), NOW_S)}
    return {name: [sample.value for sample in found[f"gateway.provider.{name}"].samples] for name in names}


def test_how_long_the_settler_was_silent(tmp_path: Path) -> None:
    file = tmp_path / "health.json"
    assert silence(file, NOW_S).samples == []
    file.touch()
    os.utime(file, (NOW_S, NOW_S - 7.0))
    assert [sample.value for sample in silence(file, NOW_S).samples] == [7.0]


async def test_metrics_of_every_provider_and_model(control: Control) -> None:
    circuits = {"openai/gpt": Circuit("open", until_s=NOW_S - 1, version=1)}
    keep(control, seen("ok"), seen("error"), circuits=circuits, drained=frozenset({"openai"}))
    settings = runtime.read(control.paths.runtime)
    things = len(settings.providers) + len(settings.models)
    found = lines(control, ("circuit", "drained", "error_ratio", "deadline"))
    assert len(found["circuit"]) == things
    assert max(found["circuit"]) == 1
    assert sum(found["drained"]) == 1
    assert found["error_ratio"] == [0.5] * 4
    assert len(found["deadline"]) == 2 * len(settings.models)
