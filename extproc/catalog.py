"""What the configuration means to a request: one immutable snapshot, compiled once, looked up by the walk.

In: Settings. Out: `Catalog`: who a key belongs to, what a model name stands for, and in which order
providers are tried. A request keeps the catalog it began with. Called by the worker at start and by `gateway check`.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import cast
from urllib.parse import urlsplit

import msgspec

from extproc.pricing import price_from_usd
from extproc.records import Feature, ProviderFormat, Target
from extproc.routing.policy import CompiledRule, Policy, compile_rules
from extproc.settings import Model, Provider, Routing, Settings, Team
from extproc.settings.models import Equivalents
from extproc.wire import provider_cluster

Network = IPv4Network | IPv6Network

TIERS = ("simple", "medium", "hard")
AUTO = "auto"


class TeamView(msgspec.Struct, frozen=True):
    """A team as the data plane needs it."""

    id: str
    models: frozenset[str]  # names this team may use; `auto` too where a tier has one of them
    settings: Team
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
    chains: Mapping[str, tuple[str, ...]]  # model name -> itself and its equivalents, best first
    stand_ins: Mapping[str, tuple[Target, ...]]  # model name -> its equivalents, with the rewrite of the best group
    endpoints: Mapping[str, Endpoint]  # by provider
    routing: Routing
    features: Mapping[str, frozenset[Feature]]  # by model name: what it can do
    trusted_hops: int = 0  # proxies before the gateway whose x-forwarded-for is believed
    content: bool = False  # traces are to have the messages


def compile_catalog(settings: Settings) -> Catalog:
    """Compile `settings`, which must have passed its checks."""
    targets = {model.name: _target(model, settings.providers[model.provider]) for model in settings.models}
    rules = compile_rules(settings.routing.rules)
    views = {team.id: _team(team, settings, targets, rules) for team in settings.teams}
    return Catalog(
        teams={key: views[team.id] for team in settings.teams for key in team.keys},
        views=views,
        issuers=_issuers(settings, views),
        targets=targets,
        chains={name: _chain(name, settings) for name in targets},
        stand_ins={
            name: tuple(_stand_in(name, targets[other], settings) for other in _chain(name, settings)[1:])
            for name in targets
        },
        endpoints={name: _endpoint(name, provider) for name, provider in settings.providers.items()},
        routing=settings.routing,
        content=settings.telemetry.content and settings.telemetry.otlp_endpoint is not None,
        features={model.name: frozenset(model.features) for model in settings.models},
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
    )


def _chain(name: str, settings: Settings) -> tuple[str, ...]:
    """`name`, then the other models of its groups: best score first, then in the order written."""
    order = dict.fromkeys([name, *(other for group in _groups(name, settings) for other in group.models)])
    return tuple(order)


def _groups(name: str, settings: Settings) -> list[Equivalents]:
    """Those with `name`, best score first."""
    return sorted((group for group in settings.equivalents if name in group.models), key=lambda group: -group.score)


def _stand_in(name: str, other: Target, settings: Settings) -> Target:
    """`other` as it stands in for `name`."""
    group = next(group for group in _groups(name, settings) if other.model in group.models)
    return msgspec.structs.replace(other, rewrite=group.rewrite.get(other.model, ""))


def _team(team: Team, settings: Settings, targets: Mapping[str, Target], rules: tuple[CompiledRule, ...]) -> TeamView:
    allowed = {name for name in targets if any(fnmatchcase(name, pattern) for pattern in team.models)}
    auto: dict[str, tuple[str, ...]] = {
        tier: tuple(names) for tier, names in (settings.routing.auto | team.routing.auto).items()
    }
    if any(name in allowed for names in auto.values() for name in names):
        allowed.add(AUTO)
    target = team.routing.target or settings.routing.target
    policy = Policy(
        rules=rules,
        save_share=target.save_pct / 100 if target else None,
        costs=_costs([[targets[name].price.input for name in auto.get(tier, ()) if name in allowed] for tier in TIERS]),
    )
    return TeamView(
        id=team.id,
        models=frozenset(allowed),
        settings=team,
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
