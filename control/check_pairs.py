"""What `gateway check` says of settings that take each other's effect.

In: checked Settings and their catalog. Out: lines, each beginning with the path of a key. What cannot work at all is
refused before (`extproc.settings.rules`); this is what works otherwise than it reads.
"""

from collections.abc import Iterator
from itertools import combinations

from extproc.catalog import Catalog
from extproc.settings import Settings, Team


def warnings(settings: Settings, catalog: Catalog) -> Iterator[str]:
    """What is allowed but probably not meant."""
    yield from _waits(settings)
    if not any(settings.auto.values()) and not any(team.routing.auto for team in settings.teams):
        for key in ("rules", "target"):
            if getattr(settings.routing, key):
                yield f"routing.{key}: has no effect, for `auto` has no models"
    for index, team in enumerate(settings.teams):
        yield from (f"teams[{index}].{line}" for line in _limits(team))
        yield from (f"teams[{index}].{line}" for line in _unpriced(team, catalog))


def _waits(settings: Settings) -> Iterator[str]:
    """Waits that something else ends first."""
    timeouts, routing = settings.timeouts, settings.routing
    end = "request" if timeouts.request < timeouts.idle else "idle"
    waits = {"timeouts.connect": timeouts.connect}
    if settings.equivalents and routing.attempts > 1:
        if routing.first_byte_timeout == "auto":
            deadlines = routing.deadlines
            waits |= {f"routing.deadlines.{name}": getattr(deadlines, name) for name in ("min", "cold", "cold_whole")}
        else:
            waits["routing.first_byte_timeout"] = routing.first_byte_timeout
    for path, wait in waits.items():
        if wait >= getattr(timeouts, end):
            yield f"{path}: is no shorter than timeouts.{end}, which ends the request before another model is asked"
    lease = settings.budgets.hold_lease
    if lease is not None and lease < timeouts.request:
        yield "budgets.hold_lease: is shorter than timeouts.request; what runs longer is charged before it ends"


def _limits(team: Team) -> Iterator[str]:
    """Limits of 0, and those that another is always reached before."""
    budget, limits = team.budget, team.limits
    given = {f"budget.{name}": getattr(budget, name) for name in ("daily_usd", "monthly_usd")}
    tokens = {
        "limits.tokens_per_minute": limits.tokens_per_minute,
        "budget.daily_tokens": budget.daily_tokens,
        "budget.monthly_tokens": budget.monthly_tokens,
    }
    for path, value in {**tokens, **given, "limits.requests_per_minute": limits.requests_per_minute}.items():
        if value == 0:
            yield f"{path}: is 0, which refuses every request; null is no limit"
    for rising in (tokens, given):
        for (path, value), (longer, most) in combinations(rising.items(), 2):
            if value and most and value > most:
                yield f"{path}: is more than {longer}, which is reached first"
    has_budget = any(value is not None for value in (budget.daily_tokens, budget.monthly_tokens, *given.values()))
    if not has_budget:
        for path, value in {"budget.strict": budget.strict, "alert.webhook": team.alert.webhook}.items():
            if value:
                yield f"{path}: has no effect without a budget"
    if budget.burst_tokens and budget.daily_tokens is None:
        yield "budget.burst_tokens: has no effect without budget.daily_tokens"


def _unpriced(team: Team, catalog: Catalog) -> Iterator[str]:
    """Models that a budget in USD does not hold."""
    if team.budget.daily_usd is None and team.budget.monthly_usd is None:
        return
    prices = {name: catalog.targets[name].price for name in catalog.views[team.id].routes}
    unknown = sorted(name for name, price in prices.items() if price.input is None or price.output is None)
    if unknown:
        what = "is refused" if team.budget.strict else "counts as nothing"
        yield f"budget: is in USD, of which the use of {', '.join(unknown)} {what}, for want of a price"
