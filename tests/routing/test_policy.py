"""Rules and thresholds: what an operator writes and what comes of it."""

from typing import Any

import pytest

from extproc.catalog import compile_catalog
from extproc.records import ChatRequest
from extproc.routing.classify import Complexity, classify
from extproc.routing.policy import Policy
from extproc.settings import Settings, SettingsError, parse

BASE = """
providers: {p: {format: demo}}
models:
  - {name: mini, provider: p, price: {input: 0.15}}
  - {name: mid, provider: p, price: {input: 0.8}}
  - {name: big, provider: p, price: {input: 2.5}}
routing:
  auto: {simple: [mini], medium: [mid], hard: [big]}
  ROUTING
teams:
  - {id: a, keys: [ka], TEAM}
"""


def settings(routing: str = "hedge: false", team: str = "models: ['*']") -> Settings:
    return parse(BASE.replace("ROUTING", routing).replace("TEAM", team), {})


def problems(routing: str = "hedge: false", team: str = "models: ['*']") -> list[str]:
    with pytest.raises(SettingsError) as caught:
        settings(routing, team)
    return caught.value.problems


def policy(routing: str = "hedge: false", team: str = "models: ['*']") -> Policy:
    (view,) = compile_catalog(settings(routing, team)).teams.values()
    return view.policy


def asked(content: Any, given: Policy, **fields: Any) -> Complexity:
    body = {"messages": [{"role": "user", "content": content}]} | fields
    return classify(ChatRequest(body=body, model="auto"), given)


CODE = "Fix it:\n```\nx = 1\n```"
IMAGE = [{"type": "image_url", "image_url": {}}]


@pytest.mark.parametrize(
    ("when", "holds", "fails"),
    [
        ("contains: Contract", "Read this CONTRACT", "Read this"),
        ("contains: [lease, contract]", "the contract", "the letter"),
        ("regex: '(?i)\\bsection \\d+'", "See Section 12", "See section twelve"),
        ("min_chars: 100", "x" * 100, "x" * 99),
        ("max_chars: 5", "short", "longer"),
        ("has_code: true", CODE, "Fix it"),
        ("has_code: false", "Fix it", CODE),
        ("has_images: true", IMAGE, "no image"),
        ("contains: contract, min_chars: 20", "a contract of some length", "contract"),
    ],
)
def test_a_condition_holds_and_fails(when: str, holds: Any, fails: Any) -> None:
    given = policy(f"rules: [{{when: {{{when}}}, tier: hard, name: mine}}]")
    assert str(asked(holds, given)) == "tier=hard; score=1.00; reason=mine"
    assert asked(fails, given).reason != "mine"


def test_tools_are_a_condition() -> None:
    given = policy("rules: [{when: {has_tools: true}, tier: medium}]")
    assert asked("Hi", given, tools=[{"type": "function"}]).reason == "rule_1"
    assert asked("Hi", given).tier == "simple"


def test_the_first_rule_that_holds_decides() -> None:
    given = policy("rules: [{when: {contains: a}, tier: simple}, {when: {contains: b}, tier: hard}]")
    assert asked("a and b", given).tier == "simple"
    assert asked("b", given).reason == "rule_2"


def test_a_regex_that_would_blow_up_elsewhere_runs_in_linear_time() -> None:
    given = policy("rules: [{when: {regex: '(a+)+$'}, tier: hard}]")
    assert asked("a" * 4000 + "!", given).reason != "rule_1"
    assert asked("\ud83d" + "a" * 10, given).reason == "rule_1"


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("{when: {regex: '(a'}, tier: hard}", "routing.rules[0].when.regex: not a regular expression that RE2 can run"),
        ("{when: {regex: '(a)\\1'}, tier: hard}", "routing.rules[0].when.regex: not a regular expression"),
        ("{when: {}, tier: hard}", "routing.rules[0].when: needs at least one condition"),
        ("{when: {contians: x}, tier: hard}", "routing.rules[0].when.contians: unknown key; did you mean contains?"),
        ("{when: {contains: x}, tier: harder}", "routing.rules[0].tier: input should be"),
        ("{when: {contains: ''}, tier: hard}", "routing.rules[0].when.contains[0]: string should have at least"),
        ("{when: {min_chars: -1}, tier: hard}", "routing.rules[0].when.min_chars: input should be greater"),
    ],
)
def test_a_wrong_rule_is_named(rule: str, problem: str) -> None:
    assert any(line.startswith(problem) for line in problems(f"rules: [{rule}]"))


def test_a_teams_tiers_and_target_are_checked_too() -> None:
    assert problems(team="routing: {auto: {hard: [bigg]}}") == [
        "teams[0].routing.auto.hard[0]: no model is named bigg; did you mean big?"
    ]
    (line,) = problems(team="routing: {target: {save_pct: 120}}")
    assert line.startswith("teams[0].routing.target.save_pct: ")


def test_a_teams_own_tier_stands_beside_everyones() -> None:
    (view,) = compile_catalog(settings(team="routing: {auto: {hard: [mid]}}")).teams.values()
    assert view.auto == {"simple": ("mini",), "medium": ("mid",), "hard": ("mid",)}


QUANTILES = [percent / 100 for percent in range(101)]  # traffic whose scores are spread evenly


@pytest.mark.parametrize("save_pct", [5, 20, 40, 60, 80, 90])
def test_a_target_is_met_on_the_traffic_of_the_table(save_pct: float) -> None:
    given = policy(f"target: {{save_pct: {save_pct}}}")
    simple, hard = given.thresholds("balanced", QUANTILES)
    cheap, middle, dear = given.costs
    spent = sum(cheap if q < simple else middle if q < hard else dear for q in QUANTILES) / len(QUANTILES)
    assert 1 - spent >= save_pct / 100 - 0.02


def test_a_larger_target_never_sends_more_to_the_hard_model() -> None:
    found = [policy(f"target: {{save_pct: {pct}}}").thresholds("balanced", QUANTILES)[1] for pct in range(5, 95, 5)]
    assert found == sorted(found)


def test_a_teams_target_is_its_own() -> None:
    assert policy("target: {save_pct: 40}", "routing: {target: {save_pct: 70}}").save_share == 0.7
