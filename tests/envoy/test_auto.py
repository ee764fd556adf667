"""`model: auto` through a real Envoy: the tier by the request, the client's wish, the team's own and the rules."""

import re
import subprocess
from collections.abc import Callable
from typing import Any

import openai
import pytest
import yaml

from tests.envoy.harness import GATEWAY, TEAM_KEY, Config, Gateway, ask, running, wait_until

HARD = "Prove by induction that every tournament has a Hamiltonian path, and derive an algorithm with its complexity."
MEDIUM = "Write a Python function that counts the words of a text file and explain how it works."
EASY = "What is the capital of Norway?"
TOOL: Any = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}


def tiered(models: list[Config]) -> list[Config]:
    tiers = {"gpt": "simple", "gemini": "medium", "claude": "hard"}
    return [model | ({"tier": tiers[name]} if (name := model["name"]) in tiers else {}) for model in models]


@pytest.fixture(scope="module")
def config(config: Config) -> Config:
    """Without `routing.auto`: the models say their tiers themselves."""
    config["models"] = tiered(config["models"])
    config["routing"] = {
        "rules": [
            {"when": {"regex": r"(?i)\bclause \d+"}, "tier": "hard", "name": "contracts"},
            {"when": {"has_tools": True, "max_chars": 200}, "tier": "medium"},
        ],
    }
    config["teams"] = [
        {"id": "plain", "keys": ["sk-plain"]},
        {"id": "own", "keys": ["sk-own"], "routing": {"auto": {"hard": ["gpt-b"]}}},
        {"id": "thrifty", "keys": ["sk-thrifty"], "routing": {"target": {"save_pct": 99}}},
    ]
    return config


def asked(gateway: Gateway, prompt: str, key: str = "sk-plain", **more: Any) -> tuple[Any, str]:
    """The answer and its x-gateway-routing."""
    raw = gateway.client(key).chat.completions.with_raw_response.create(**ask(prompt, "auto", **more))
    return raw.parse(), raw.headers["x-gateway-routing"]


@pytest.mark.parametrize(
    ("prompt", "tier", "model"), [(EASY, "simple", "gpt"), (MEDIUM, "medium", "gemini"), (HARD, "hard", "claude")]
)
def test_the_tier_and_its_explanation(gateway: Gateway, prompt: str, tier: str, model: str) -> None:
    answer, header = asked(gateway, prompt)
    assert (answer.model, answer.routed_from) == (model, "auto")
    assert answer.gateway_metadata["routing_decision"] == f"{tier}_query"
    assert re.fullmatch(rf"{tier}_query; tier={tier}; score=[01]\.\d\d; reason=[a-z_]+", header)
    assert gateway.row(answer.gateway_metadata["request_id"])["routing_decision"] == f"{tier}_query"


def test_a_stream_is_routed_and_explained_alike(gateway: Gateway) -> None:
    raw = gateway.client("sk-plain").chat.completions.with_raw_response.create(**ask(HARD, "auto", stream=True))
    _, header = asked(gateway, HARD)
    assert raw.headers["x-gateway-routing"] == header
    assert list(raw.parse())


def test_every_worker_says_the_same(gateway: Gateway) -> None:
    assert len({asked(gateway, MEDIUM)[1] for _ in range(6)}) == 1


def test_a_wish_moves_the_tier(gateway: Gateway) -> None:
    tiers = {
        wish: [asked(gateway, p, metadata={"routing": wish})[1].partition("_")[0] for p in (EASY, MEDIUM, HARD)]
        for wish in ("cost", "balanced", "quality")
    }
    order = ("simple", "medium", "hard")
    for cost, balanced, quality in zip(*tiers.values(), strict=True):
        assert order.index(cost) <= order.index(balanced) <= order.index(quality)
    assert tiers["cost"] != tiers["quality"]


def test_an_unknown_wish_is_a_400_that_names_the_field(gateway: Gateway) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        asked(gateway, EASY, metadata={"routing": "cheap"})
    assert caught.value.param == "metadata.routing"
    assert "cost, balanced or quality" in caught.value.message


def test_a_rule_decides_before_the_classifier(gateway: Gateway) -> None:
    answer, header = asked(gateway, "What does clause 12 say?")
    assert (answer.model, header) == ("claude", "hard_query; tier=hard; score=1.00; reason=contracts")
    answer, header = asked(gateway, EASY, tools=[TOOL])
    assert (answer.model, header) == ("gemini", "medium_query; tier=medium; score=0.50; reason=rule_2")


def test_a_team_has_its_own_tier_and_target(gateway: Gateway) -> None:
    assert asked(gateway, HARD, "sk-own")[0].model == "gpt-b"
    assert asked(gateway, EASY, "sk-own")[0].model == "gpt"
    assert asked(gateway, HARD, "sk-thrifty")[0].model != "claude"


def test_a_pinned_model_is_not_classified(gateway: Gateway) -> None:
    raw = gateway.client("sk-plain").chat.completions.with_raw_response.create(**ask(HARD, "gpt"))
    assert raw.headers["x-gateway-routing"] == "pinned"


def test_a_change_that_brings_it_loads_what_it_takes_before_somebody_asks(new_config: Callable[[], Config]) -> None:
    """Into each worker, none of which had it before: of numpy's parts some are mapped then."""
    config = new_config()
    with running(config) as gateway:
        workers = gateway.processes("gateway worker")

        def loaded() -> list[bool]:
            return [any("/numpy/" in part.path for part in worker.memory_maps()) for worker in workers]

        assert loaded() == [False, False]
        gateway.file.write_text(yaml.safe_dump(config | {"models": tiered(config["models"])}))
        assert subprocess.run([GATEWAY, "reload", "--config", str(gateway.file)], check=False).returncode == 0
        wait_until(lambda: all(loaded()), 10, "the model in every worker")
        assert asked(gateway, HARD, TEAM_KEY)[0].model == "claude"
