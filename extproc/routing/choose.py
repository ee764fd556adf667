"""Which model, and who stands in for it: an ordered list of targets for one request. Pure.

In: the client's `model`, what its team may use, how hard the request looks (for `auto`). Out: `Choice`.
"""

from collections.abc import Iterable

import msgspec

from extproc.catalog import AUTO, TIERS, Catalog, TeamView
from extproc.errors import ModelNotAllowed, ModelNotFound
from extproc.records import Target
from extproc.routing.classify import Complexity


class Choice(msgspec.Struct, frozen=True):
    """The targets to try, in order, and why the first one was chosen."""

    targets: tuple[Target, ...]
    reason: str  # routing_decision: pinned, simple_query, medium_query, hard_query, downgraded


def choose(
    catalog: Catalog,
    team: TeamView,
    model: str,
    complexity: Complexity | None,
    *,
    fallback: bool = True,
    downgrade: bool = False,
) -> Choice:
    """Targets for `model`; for `auto`, of the tier of `complexity`, or with `downgrade` of the next cheaper one.

    Raises ModelNotFound, ModelNotAllowed.
    """
    check_allowed(catalog, team, model)
    if complexity is not None:
        name, reason = _auto(catalog, team, complexity, downgrade=downgrade)
    else:
        name, reason = model, "pinned"
    chain: Iterable[str] = catalog.chains[name] if fallback else (name,)
    allowed = [catalog.targets[other] for other in chain if other in team.models]
    return Choice(targets=tuple(allowed[: catalog.attempts]), reason=reason)


def check_allowed(catalog: Catalog, team: TeamView, model: str) -> None:
    """Whether `team` may ask for `model`, whoever is there to serve it now. Raises ModelNotFound, ModelNotAllowed."""
    if model == AUTO:
        if AUTO not in team.models:
            raise ModelNotFound("`auto` has no model that your team may use.", param="model")
    elif model not in catalog.targets:
        raise ModelNotFound(f"The model `{model}` does not exist or you do not have access to it.", param="model")
    elif model not in team.models:
        raise ModelNotAllowed(f"Your team may not use the model `{model}`.", param="model")


def _auto(catalog: Catalog, team: TeamView, complexity: Complexity, *, downgrade: bool) -> tuple[str, str]:
    """The first allowed model of the tier; without one, of the nearest harder tier, then of the nearest easier one."""
    tier = TIERS.index(complexity.tier)
    reason = "downgraded" if downgrade and tier > 0 else f"{TIERS[tier]}_query"
    tier = max(0, tier - 1) if downgrade else tier
    for index in (*range(tier, len(TIERS)), *range(tier - 1, -1, -1)):
        for name in catalog.auto.get(TIERS[index], ()):
            if name in team.models:
                return name, reason
    raise ModelNotFound("`auto` has no model that your team may use.", param="model")
