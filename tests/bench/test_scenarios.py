"""What is asked: whole requests, alike at all targets but for what each needs."""

import itertools

import msgspec
import pytest

from bench.scenarios import SCENARIOS, TARGETS, Scenario, TargetName, request

ASKED = list(itertools.chain.from_iterable(((each, target) for target in each.targets) for each in SCENARIOS))


@pytest.mark.parametrize(("scenario", "target"), ASKED, ids=lambda value: getattr(value, "name", value))
def test_a_request_is_whole(scenario: Scenario, target: TargetName) -> None:
    head, _, body = b"0123456789".join(request(scenario, target)).partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head.splitlines()
    said = msgspec.json.decode(body)
    (message,) = said["messages"]
    assert abs(len(message["content"]) - scenario.prompt_bytes) < 100 or not scenario.prompt_bytes
    assert bool(scenario.chunks) == (f"[[demo chunks={scenario.chunks} " in message["content"])
    assert said["stream"] is scenario.stream
    assert b"0123456789" in body
    assert scenario.cached or "0123456789" in message["content"]


def test_scenarios_are_told_apart() -> None:
    assert len({each.name for each in SCENARIOS}) == len({each.title for each in SCENARIOS}) == len(SCENARIOS)
    assert all(bool(each.rate) != bool(each.connections) for each in SCENARIOS)
    assert {target for each in SCENARIOS for target in each.targets} == set(TARGETS)
