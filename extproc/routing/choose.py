"""Which model, and who stands in for it: an ordered list of targets for one request. Pure.

In: the client's `model`, what its team may use, how hard the request looks (for `auto`), what it needs of a model, how
each provider is doing. Out: `Choice`. In this order:

    candidates   a pinned model and its equivalents, best score first; for `auto`, the models of the tier, cheapest
                 first, the equivalents of the first of them, then the harder tiers, then the easier ones
                 (these first where the budget is running out)
    able         those that can do what is asked and hold the prompt; a pinned model stays, unless a larger one is there
    standing     those whose circuit lets this request through; a half-open one last, unless the request is its probe
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from extproc.catalog import AUTO, TIERS, Catalog, Route, TeamView
from extproc.errors import InvalidRequest, ModelNotAllowed, ModelNotFound, NoProviderAvailable, RateLimitExceeded
from extproc.records import Feature, Price, Target
from extproc.routing.classify import Complexity
from extproc.routing.standing import Standing

StandingOf = Callable[[Target], Standing]

# Of the tokens of a request, how many are input: only to compare prices.
_INPUT_SHARE = 0.75


class Needs(msgspec.Struct, frozen=True):
    """What a request asks of a model. `input_tokens`: its size in a target's own tokens, counted when asked for."""

    features: frozenset[Feature]
    most_tokens: float  # no tokenizer makes more of it
    input_tokens: Callable[[Target], int]

    def fit(self, target: Target) -> bool:
        """Whether the prompt fits the target's context window, as far as we know."""
        window = target.context_tokens
        most = self.most_tokens + len(target.rewrite.encode())
        return window is None or most <= window or self.input_tokens(target) <= window


class Choice(msgspec.Struct, frozen=True):
    """The targets to try, in order, and why the first one was chosen."""

    targets: tuple[Target, ...]
    # routing_decision: pinned, simple_query, medium_query, hard_query, downgraded, larger_context, fallback
    reason: str


def choose(
    catalog: Catalog,
    team: TeamView,
    model: str,
    complexity: Complexity | None,
    *,
    needs: Needs,
    standing: StandingOf | None,
    fallback: bool = True,
    downgrade: bool = False,
) -> Choice:
    """Targets for `model`, which `check_allowed` has let pass; for `auto`, of the tier of `complexity`, or with
    `downgrade` of the next cheaper one. `standing` None: everything is up.

    Raises InvalidRequest, NoProviderAvailable, RateLimitExceeded.
    """
    targets: Sequence[Target]
    if complexity is not None:
        targets, reason = _auto(catalog, team, complexity, needs, downgrade=downgrade)
    else:
        targets, reason = _pinned(catalog, team.routes[model], needs, fallback=fallback)
    if standing is not None:
        first = targets[0]
        targets = _going(targets, standing)
        reason = reason if targets[0] is first else "fallback"
    most = catalog.routing.attempts if fallback else 1
    return Choice(tuple(targets[:most]), reason)


def check_allowed(catalog: Catalog, team: TeamView, model: str) -> None:
    """Whether `team` may ask for `model`, whoever is there to serve it now. Raises ModelNotFound, ModelNotAllowed."""
    if model == AUTO:
        if AUTO not in team.models:
            raise ModelNotFound("`auto` has no model that your team may use.", param="model")
    elif model not in catalog.targets:
        raise ModelNotFound.of(model)
    elif model not in team.models:
        raise ModelNotAllowed(f"Your team may not use the model `{model}`.", param="model")


def _pinned(catalog: Catalog, route: Route, needs: Needs, *, fallback: bool) -> tuple[Sequence[Target], str]:
    if not fallback:
        return route.targets[:1], "pinned"
    if needs.features <= route.features and needs.most_tokens <= route.tokens:
        return route.targets, "pinned"  # all of them are able
    pinned, *equivalents = route.targets
    others = [target for target in equivalents if _able(catalog, target, needs)]
    # Only a window that is known is known to be larger.
    if needs.fit(pinned) or all(target.context_tokens is None for target in others):
        return [pinned, *others], "pinned"
    return [*others, pinned], "larger_context"


def _auto(
    catalog: Catalog, team: TeamView, complexity: Complexity, needs: Needs, *, downgrade: bool
) -> tuple[list[Target], str]:
    tier = TIERS.index(complexity.tier)
    reason = "downgraded" if downgrade and tier > 0 else f"{TIERS[tier]}_query"
    tier = max(0, tier - 1) if downgrade else tier
    harder, easier = range(tier + 1, len(TIERS)), range(tier - 1, -1, -1)
    known = list(_of_tiers(catalog, team, (tier, *easier, *harder) if downgrade else (tier, *harder, *easier)))
    featured = [(at, target) for at, target in known if needs.features <= catalog.features[target.model]]
    if not featured:
        wanted = ", ".join(sorted(needs.features))
        raise InvalidRequest(f"`auto` has no model that your team may use for this ({wanted}).", param="model")
    able = [(at, target) for at, target in featured if needs.fit(target)]
    if not able:  # let the one with the most room say so
        able = [max(featured, key=lambda found: found[1].context_tokens or 0)]
    tier, first = able[0]
    return _unique(
        [target for at, target in able if at == tier],
        [target for target in team.routes[first.model].targets[1:] if _able(catalog, target, needs)],
        [target for _, target in able],
    ), reason


def _unique(*lists: list[Target]) -> list[Target]:
    """Each model where it comes first: as a stand-in, its prompt is rewritten."""
    found: dict[str, Target] = {}
    for target in (target for targets in lists for target in targets):
        found.setdefault(target.model, target)
    return list(found.values())


def _of_tiers(catalog: Catalog, team: TeamView, tiers: Iterable[int]) -> Iterator[tuple[int, Target]]:
    """Allowed models of each tier in turn, the cheapest first, in the order written where they cost the same."""
    for tier in tiers:
        names = [name for name in team.auto.get(TIERS[tier], ()) if name in team.models]
        yield from sorted(((tier, catalog.targets[name]) for name in names), key=lambda found: _cost(found[1].price))


def _able(catalog: Catalog, target: Target, needs: Needs) -> bool:
    return needs.features <= catalog.features[target.model] and needs.fit(target)


def _cost(price: Price) -> float:
    """For comparing; an unknown price is the highest."""
    if price.input is None or price.output is None:
        return float("inf")
    return _INPUT_SHARE * price.input + (1 - _INPUT_SHARE) * price.output


def _going(targets: Sequence[Target], standing: StandingOf) -> list[Target]:
    """Those that may be asked now. Raises NoProviderAvailable, RateLimitExceeded."""
    stands = [(target, standing(target)) for target in targets]
    first = [target for target, how in stands if how.way == "up" or how.admit]
    if first:
        return first + [target for target, how in stands if how.way == "probe" and not how.admit]
    limited_s = [how.wait_s for _, how in stands if how.way == "limited" and how.wait_s is not None]
    if limited_s:
        raise RateLimitExceeded(
            "Every provider of this model is limiting the rate of requests; try again later.",
            retry_after_s=min(limited_s),
        )
    waits_s = [how.wait_s for _, how in stands if how.wait_s is not None]
    raise NoProviderAvailable("No provider is available for this model now.", retry_after_s=min(waits_s, default=None))
