"""What a worker makes of the settler's standings: who may be asked, and how probes are rationed."""

import msgspec
import pytest

from extproc.records import Target
from extproc.routing.breaker import Circuit
from extproc.routing.health import Standings
from extproc.routing.standing import PROBE_EVERY_S, UP, View
from extproc.settings import Breaker

NOW = 1_000_000.0
GPT = Target(model="gpt", upstream_name="gpt", provider="openai", format="openai")
OTHER = Target(model="gpt", upstream_name="gpt", provider="azure", format="azure")
OPEN = Circuit("open", until_s=NOW + 10, version=1)


def view(**standings: object) -> View:
    result = View(Breaker())
    told = Standings(**standings)  # type: ignore[arg-type]
    result.standings = msgspec.json.decode(msgspec.json.encode(told), type=Standings)
    return result


def test_nobody_is_down_until_it_is_told() -> None:
    assert View(Breaker()).of(GPT, NOW, 0.5) is UP


@pytest.mark.parametrize("key", ["openai", "openai/gpt"])
def test_an_open_circuit_of_the_provider_or_of_the_model(key: str) -> None:
    one = view(circuits={key: OPEN})
    assert one.of(GPT, NOW, 0.0).way == "down"
    assert one.of(GPT, NOW, 0.0).wait_s == 10
    assert one.of(OTHER, NOW, 0.0) is UP


def test_drained_and_limited() -> None:
    assert view(drained=frozenset({"openai"})).of(GPT, NOW, 0.0).way == "down"
    limited = view(limited_until_s={"openai": NOW + 3})
    assert (limited.of(GPT, NOW, 0.0).way, limited.of(GPT, NOW, 0.0).wait_s) == ("limited", 3)
    assert limited.of(GPT, NOW + 3, 0.0) is UP


def test_time_alone_makes_it_half_open_and_a_share_are_probes() -> None:
    one = view(circuits={"openai": OPEN})
    later = NOW + 10
    one.asked(GPT, later)  # the one that is due anyway
    admitted = [one.of(GPT, later + 1, n / 100).admit for n in range(100)]
    assert admitted == [True] * 5 + [False] * 95
    assert one.of(GPT, later + 1, 0.5).way == "probe"


def test_little_traffic_is_probed_too() -> None:
    one = view(circuits={"openai": OPEN, "openai/gpt": OPEN})
    assert one.of(GPT, NOW + 10, 0.99).admit
    one.asked(GPT, NOW + 10)
    assert not one.of(GPT, NOW + 11, 0.99).admit
    assert one.of(GPT, NOW + 11, 0.99).wait_s == PROBE_EVERY_S - 1
    assert one.of(GPT, NOW + 10 + PROBE_EVERY_S, 0.99).admit
