"""What the configuration means to a request: one immutable snapshot, compiled once, looked up by the walk.

In: Settings. Out: `Catalog`: who a key belongs to, what a model name stands for, and in which order
providers are tried. A request keeps the catalog it began with. Called by the worker at start and by `gateway check`.
"""

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import cache, partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import cast, get_args
from urllib.parse import urlsplit

import msgspec

from extproc.budget.ledger import Caps
from extproc.budget.plan import caps_for
from extproc.pricing import price_from_usd
from extproc.records import Feature, Priority, ProviderFormat, Target
from extproc.routing.policy import CompiledRule, Policy, compile_rules
from extproc.settings import Model, Provider, Routing, Settings, Team
from extproc.wire import provider_cluster

Network = IPv4Network | IPv6Network

TIERS = ("simple", "medium", "hard")
AUTO = "auto"


class Route(msgspec.Struct, frozen=True):
    """What a model's name stands for."""

    targets: tuple[Target, ...]  # the model, then those that may stand in for it, best first
    features: frozenset[Feature]  # what all that stand in can do
    tokens: float  # a prompt of so many fits all of them, with what they are told; infinite: as far as is known


class TeamView(msgspec.Struct, frozen=True):
    """A team as the data plane needs it."""

    id: str
    models: frozenset[str]  # names this team may use; `auto` too where a tier has one of them
    settings: Team
    routes: Mapping[str, Route]  # of those models, by name
    caps: Mapping[Priority, Caps]  # its limits, by a request's priority
    networks: tuple[Network, ...] = ()  # where its clients must be; none: anywhere
    auto: Mapping[str, tuple[str, ...]] = {}  # tier -> model names
    policy: Policy = Policy()  # how `auto` chooses a tier


class Endpoint(msgspec.Struct, frozen=True):
    """Where a provider's requests go."""

    authority: str
    base_path: str  # without a trailing slash; a query such as Azure's api-version stays in `query`
    query: str
    cluster: str


class Catalog(msgspec.Struct, frozen=True):
    """The snapshot."""

    teams: Mapping[str, TeamView]  # by "sha256:<hex>" of the key
    views: Mapping[str, TeamView]  # by id
    issuers: Mapping[str, Mapping[str, TeamView]]  # by issuer of tokens, then by the claim's value
    targets: Mapping[str, Target]  # by model name
    stand_ins: Mapping[str, tuple[Target, ...]]  # model name -> its equivalents, with the rewrite of the best group
    endpoints: Mapping[str, Endpoint]  # by provider
    routing: Routing
    features: Mapping[str, frozenset[Feature]]  # by model name: what it can do
    trusted_hops: int = 0  # proxies before the gateway whose x-forwarded-for is believed
    content: bool = False  # traces are to have the messages


def compile_catalog(settings: Settings) -> Catalog:
    """Compile `settings`, which must have passed its checks."""
    targets = {model.name: _target(model, settings.providers[model.provider]) for model in settings.models}
    features = {model.name: frozenset(model.features) for model in settings.models}
    stand_ins = {name: _stand_ins(name, targets, settings) for name in targets}
    rules = compile_rules(settings.routing.rules)
    routes = cache(partial(_routes, targets, stand_ins, features))  # mostly teams may use the same models
    views = {team.id: _team(team, settings, targets, rules, routes) for team in settings.teams}
    return Catalog(
        teams={key: views[team.id] for team in settings.teams for key in team.keys},
        views=views,
        issuers=_issuers(settings, views),
        targets=targets,
        stand_ins=stand_ins,
        endpoints={name: _endpoint(name, provider) for name, provider in settings.providers.items()},
        routing=settings.routing.model_copy(update={"auto": settings.auto}),
        content=settings.telemetry.content and settings.telemetry.otlp_endpoint is not None,
        features=features,
        trusted_hops=settings.listen.trusted_hops,
    )


def _issuers(settings: Settings, views: Mapping[str, TeamView]) -> dict[str, Mapping[str, TeamView]]:
    return {
        issuer.issuer: {value: views[team] for value, team in issuer.teams.items()} if issuer.teams else views
        for issuer in settings.auth.jwt
    }


def _target(model: Model, provider: Provider) -> Target:
    wire_format = cast(ProviderFormat, provider.wire_format)
    return Target(
        model=model.name,
        upstream_name=model.upstream_name or model.name,
        provider=model.provider,
        format=wire_format,
        max_output_tokens=model.max_output,
        context_tokens=model.context,
        price=price_from_usd(model.price.model_dump()),
        unsupported=provider.refused_parameters(model.upstream_name or model.name),
    )


def _stand_ins(name: str, targets: Mapping[str, Target], settings: Settings) -> tuple[Target, ...]:
    """The other models of its groups: best score first, then in the order written; each by the rewrite of its best."""
    found: dict[str, Target] = {}
    groups = [group for group in settings.equivalents if name in group.models]
    for group in sorted(groups, key=lambda group: -group.score):
        for other in group.models:
            rewrite = group.rewrite.get(other, "")
            found.setdefault(other, msgspec.structs.replace(targets[other], rewrite=rewrite))
    found.pop(name, None)
    return tuple(found.values())


def _routes(
    targets: Mapping[str, Target],
    stand_ins: Mapping[str, tuple[Target, ...]],
    features: Mapping[str, frozenset[Feature]],
    allowed: frozenset[str],
) -> dict[str, Route]:
    """Of every model that is `allowed`."""
    result = {}
    for name in allowed & targets.keys():
        others = [target for target in stand_ins[name] if target.model in allowed]
        route = (targets[name], *others)
        room = [each.context_tokens - len(each.rewrite.encode()) for each in route if each.context_tokens is not None]
        result[name] = Route(
            route,
            frozenset(get_args(Feature)).intersection(*(features[target.model] for target in others)),
            min(room, default=math.inf) if others else math.inf,  # with nobody to turn to it is asked all the same
        )
    return result


def _team(
    team: Team,
    settings: Settings,
    targets: Mapping[str, Target],
    rules: tuple[CompiledRule, ...],
    routes: Callable[[frozenset[str]], Mapping[str, Route]],
) -> TeamView:
    allowed = {name for name in targets if any(fnmatchcase(name, pattern) for pattern in team.models)}
    auto: dict[str, tuple[str, ...]] = {
        tier: tuple(names) for tier, names in (settings.auto | team.routing.auto).items()
    }
    if any(name in allowed for names in auto.values() for name in names):
        allowed.add(AUTO)
    models = frozenset(allowed)
    target = team.routing.target or settings.routing.target
    policy = Policy(
        rules=rules,
        save_share=target.save_pct / 100 if target else None,
        costs=_costs([[targets[name].price.input for name in auto.get(tier, ()) if name in allowed] for tier in TIERS]),
    )
    return TeamView(
        id=team.id,
        models=models,
        settings=team,
        routes=routes(models),
        caps={priority: caps_for(team.budget, team.limits, priority) for priority in get_args(Priority)},
        networks=tuple(ip_network(network) for network in team.allowed_ips),
        auto=auto,
        policy=policy,
    )


def _costs(prices: list[list[int | None]]) -> tuple[float, float, float]:
    """What an input token costs in each tier (its cheapest model), the hard one's being 1; a usual ratio if unknown."""
    simple, medium, hard = (min((price for price in tier if price is not None), default=None) for tier in prices)
    if not hard or simple is None:
        return Policy().costs
    return simple / hard, (simple if medium is None else medium) / hard, 1.0


def _endpoint(name: str, provider: Provider) -> Endpoint:
    base = _DEMO_BASE[provider.wire_format] if provider.is_demo else provider.base_url or ""
    url = urlsplit(base)
    return Endpoint(
        authority=url.netloc.rpartition("@")[2],
        base_path=url.path.rstrip("/"),
        query=url.query,
        cluster=provider_cluster(name),
    )


_DEMO_BASE = {
    "openai": "http://demo/v1",
    "anthropic": "http://demo/v1",
    "google": "http://demo/v1beta",
}
