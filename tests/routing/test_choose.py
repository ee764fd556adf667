"""The decision table: which models are tried, in which order, and what is said of it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from extproc.catalog import Catalog, compile_catalog
from extproc.errors import InvalidRequest, ModelNotAllowed, ModelNotFound, NoProviderAvailable, RateLimitExceeded
from extproc.records import Feature, Target
from extproc.routing.choose import Choice, Needs, check_allowed, choose
from extproc.routing.classify import Complexity
from extproc.routing.standing import UP, Standing
from extproc.settings import parse

SETTINGS = """
providers:
  a: {format: openai, base_url: "http://127.0.0.1:9"}
  b: {format: anthropic, base_url: "http://127.0.0.1:9"}
  c: {format: google, base_url: "http://127.0.0.1:9"}
models:
  - {name: mini, provider: a, context: 1000, price: {input: 1, output: 4}}
  - {name: haiku, provider: b, context: 8000, price: {input: 0.5, output: 2}}
  - {name: flash, provider: c, context: 100000, price: {input: 2, output: 8}, features: [vision, tools]}
  - {name: big, provider: a, context: 1000, price: {input: 10, output: 40}}
  - {name: opus, provider: b, context: 8000, price: {input: 20, output: 80}}
  - {name: plain, provider: c, features: []}
  - {name: alone, provider: c, context: 1000}
equivalents:
  - {models: [mini, flash], score: 0.8}
  - {models: [mini, haiku], score: 0.9, rewrite: {haiku: "Answer in JSON."}}
  - {models: [big, opus]}
  - {models: [plain, big]}
routing: {auto: {simple: [mini, haiku], medium: [flash], hard: [big, opus]}, attempts: 3}
teams:
  - {id: all, keys: [k1]}
  - {id: few, keys: [k2], models: [mini, opus]}
  - {id: text, keys: [k3], models: [plain]}
"""
CATALOG: Catalog = compile_catalog(parse(SETTINGS, {}))
TEAMS = {view.id: view for view in CATALOG.teams.values()}
DOWN = Standing("down", wait_s=9.0)
LIMITED = Standing("limited", wait_s=5.0)
PROBE, ADMITTED = Standing("probe"), Standing("probe", admit=True)


class Case(NamedTuple):
    asked: str  # a model, or auto:<tier>
    tried: str  # models in order
    reason: str
    tokens: int = 10
    features: tuple[Feature, ...] = ()
    providers: Mapping[str, Standing] = MappingProxyType({})  # how they are doing
    options: Mapping[str, bool] = MappingProxyType({})
    team: str = "all"


CASES = {
    # pinned
    "the model, then its equivalents by score": Case("mini", "mini haiku flash", "pinned"),
    "no equivalents": Case("alone", "alone", "pinned"),
    "only what the team may use": Case("mini", "mini", "pinned", team="few"),
    "without fallback": Case("mini", "mini", "pinned", options={"fallback": False}),
    "an equivalent that cannot do it is no equivalent": Case("mini", "mini haiku", "pinned", features=("json_schema",)),
    "a pinned model is asked whatever it can do": Case("plain", "plain big", "pinned", features=("vision",)),
    "too long a prompt goes to those that hold it": Case("mini", "haiku flash mini", "larger_context", tokens=5000),
    "far too long a prompt": Case("mini", "flash mini", "larger_context", tokens=50_000),
    "too long for all that say": Case("big", "big plain", "pinned", tokens=50_000),
    "too long, without fallback": Case("mini", "mini", "pinned", tokens=5000, options={"fallback": False}),
    # auto
    "the cheapest of the tier, then the harder ones": Case("auto:simple", "haiku mini flash", "simple_query"),
    "equivalents before other tiers": Case("auto:hard", "big opus plain", "hard_query"),
    "the only model of the tier, then harder ones": Case("auto:medium", "flash mini big", "medium_query"),
    "a tier that cannot do it": Case("auto:medium", "big opus haiku", "medium_query", features=("json_schema",)),
    "a tier that cannot hold it": Case("auto:simple", "flash", "simple_query", tokens=50_000),
    "nobody holds it: the one with the most room": Case("auto:hard", "flash", "hard_query", tokens=500_000),
    "what the team may use": Case("auto:simple", "mini opus", "simple_query", team="few"),
    "no model of the tier for the team": Case("auto:medium", "opus mini", "medium_query", team="few"),
    "over the budget's threshold": Case("auto:hard", "flash mini haiku", "downgraded", options={"downgrade": True}),
    "nothing is cheaper": Case("auto:simple", "haiku mini flash", "simple_query", options={"downgrade": True}),
    "a pinned model is never changed": Case("big", "big opus plain", "pinned", options={"downgrade": True}),
    "auto without fallback": Case("auto:simple", "haiku", "simple_query", options={"fallback": False}),
    # health
    "a provider that is down is passed over": Case("mini", "haiku flash", "fallback", providers={"a": DOWN}),
    "one that wants to be left alone too": Case("mini", "haiku flash", "fallback", providers={"a": LIMITED}),
    "a stand-in that is down": Case("mini", "mini flash", "pinned", providers={"b": DOWN}),
    "half-open, not a probe: last": Case("mini", "haiku flash mini", "fallback", providers={"a": PROBE}),
    "half-open, a probe: first": Case("mini", "mini haiku flash", "pinned", providers={"a": ADMITTED}),
    "the cheapest is down": Case("auto:simple", "mini flash big", "fallback", providers={"b": DOWN}),
    "auto without fallback chooses who is up": Case(
        "auto:simple", "mini", "fallback", providers={"b": DOWN}, options={"fallback": False}
    ),
}


def ask(case: Case) -> Choice:
    model, _, tier = case.asked.partition(":")
    needs = Needs(frozenset(case.features), case.tokens, lambda target: case.tokens)
    complexity: Any = Complexity(tier, 0.5, "short_text") if tier else None  # type: ignore[arg-type]

    def standing(target: Target) -> Standing:
        return case.providers.get(target.provider, UP)

    team = TEAMS[case.team]
    check_allowed(CATALOG, team, model)
    found = choose(CATALOG, team, model, complexity, needs=needs, standing=standing, **case.options)
    if not case.providers:
        assert found == choose(CATALOG, team, model, complexity, needs=needs, standing=None, **case.options)
    return found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_choice(case: Case) -> None:
    found = ask(case)
    assert " ".join(target.model for target in found.targets) == case.tried
    assert found.reason == case.reason


ALL_DOWN = {"a": DOWN, "b": DOWN, "c": DOWN}
REFUSED = {
    "unknown model": (Case("nope", "", ""), ModelNotFound),
    "not this team's": (Case("big", "", "", team="few"), ModelNotAllowed),
    "no model of auto's": (Case("auto:simple", "", "", team="text"), ModelNotFound),
    "all circuits open": (Case("mini", "", "", providers=ALL_DOWN), NoProviderAvailable),
    "its own, and no other may stand in": (
        Case("mini", "", "", providers={"a": DOWN}, options={"fallback": False}),
        NoProviderAvailable,
    ),
    "half-open, no probe, and nobody else": (Case("alone", "", "", providers={"c": PROBE}), NoProviderAvailable),
    "some wait, the others are down": (Case("mini", "", "", providers=ALL_DOWN | {"b": LIMITED}), RateLimitExceeded),
}


@pytest.mark.parametrize(("case", "error"), REFUSED.values(), ids=REFUSED)
def test_refusal(case: Case, error: Any) -> None:
    with pytest.raises(error):
        ask(case)


def test_a_refusal_says_when_to_come_back() -> None:
    with pytest.raises(NoProviderAvailable) as down:
        ask(Case("mini", "", "", providers=ALL_DOWN | {"b": Standing("down", wait_s=3.0)}))
    assert down.value.retry_after_s == 3.0
    with pytest.raises(NoProviderAvailable) as probed:
        ask(Case("mini", "", "", providers=ALL_DOWN | {"b": Standing("probe", wait_s=1.5)}))
    assert probed.value.retry_after_s == 1.5
    with pytest.raises(RateLimitExceeded) as limited:
        ask(Case("mini", "", "", providers=ALL_DOWN | {"b": LIMITED}))
    assert limited.value.retry_after_s == 5.0


def test_a_feature_nobody_has_is_the_clients_error() -> None:
    catalog = compile_catalog(parse(SETTINGS.replace("auto: {simple: [mini, haiku]", "auto: {simple: [plain]"), {}))
    team = next(view for view in catalog.teams.values() if view.id == "text")
    with pytest.raises(InvalidRequest, match="json_schema"):
        choose(
            catalog,
            team,
            "auto",
            Complexity("simple", 0.1, "short_text"),
            needs=Needs(frozenset({"json_schema"}), 1, lambda target: 1),
            standing=lambda target: UP,
        )


def test_a_short_prompt_is_not_counted() -> None:
    def count(target: Target) -> int:
        raise AssertionError("no need to")

    found = choose(
        CATALOG, TEAMS["all"], "mini", None, needs=Needs(frozenset(), 1000, count), standing=lambda target: UP
    )
    assert found.reason == "pinned"


def test_a_prompt_is_rewritten_for_a_stand_in_and_for_nobody_else() -> None:
    def rewrites(asked: str, **more: Any) -> dict[str, str]:
        return {target.model: target.rewrite for target in ask(Case(asked, "", "", **more)).targets}

    assert rewrites("mini") == {"mini": "", "haiku": "Answer in JSON.", "flash": ""}
    assert rewrites("mini", providers={"a": DOWN}) == {"haiku": "Answer in JSON.", "flash": ""}
    assert rewrites("haiku") == {"haiku": "", "mini": ""}
    assert rewrites("auto:simple")["haiku"] == "", "asked for by the tier, not in the place of another"
