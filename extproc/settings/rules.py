"""Rules over several keys: names that must exist, names and keys that must not repeat."""

from collections.abc import Collection, Mapping, Sequence

from extproc.settings.models import Equivalents
from extproc.settings.problems import unknown
from extproc.settings.routing import Tier
from extproc.settings.whole import Settings
from extproc.state.address import SENTINEL_SCHEMES, of_sentinels


def cross_check(settings: Settings) -> list[str]:
    """Rules over several keys: names that must exist, names that must not repeat."""
    problems = []
    names = [model.name for model in settings.models]
    for index, model in enumerate(settings.models):
        if model.provider not in settings.providers:
            problems.append(f"models[{index}].provider: {unknown('provider', model.provider, settings.providers)}")
        if model.name == "auto":
            problems.append(f"models[{index}].name: auto is reserved for routing by complexity")
        if model.name in names[:index]:
            problems.append(f"models[{index}].name: {model.name} is defined twice")
    autos = [("routing.auto", settings.routing.auto)]
    autos += [(f"teams[{index}].routing.auto", team.routing.auto) for index, team in enumerate(settings.teams)]
    for path, auto in autos:
        problems += unknown_models(path, auto, names)
    problems += _group_problems(settings.equivalents, names)
    problems += _pair_problems(settings)
    problems += _state_problems(settings.state.url)
    problems += _team_problems(settings)
    problems += _token_problems(settings)
    for name, provider in settings.providers.items():
        if provider.format == "bedrock" and provider.credential is None and provider.signing_region is None:
            problems.append(
                f"providers.{name}.credential: a Bedrock API key is needed, or a base_url whose host names the region"
                " that requests are signed for: https://bedrock-runtime.REGION.amazonaws.com"
            )
        if provider.format != "demo" and provider.credential == "" and not provider.demo_without_credential:
            problems.append(f"providers.{name}.credential: is empty; leave the key out if the provider needs none")
    return problems


def _group_problems(groups: Sequence[Equivalents], names: Collection[str]) -> list[str]:
    """Models that stand in for others."""
    problems = []
    for index, group in enumerate(groups):
        problems += [
            f"equivalents[{index}].models[{at}]: {unknown('model', name, names)}"
            for at, name in enumerate(group.models)
            if name not in names
        ]
        problems += [
            f"equivalents[{index}].rewrite.{name}: is not in this group; it has {', '.join(group.models)}"
            for name in group.rewrite
            if name not in group.models
        ]
        problems += [
            f"equivalents[{index}].models[{at}]: {name} stands there twice"
            for at, name in enumerate(group.models)
            if name in group.models[:at]
        ]
    return problems


def _pair_problems(settings: Settings) -> list[str]:
    """Settings of which one makes the other impossible."""
    problems = []
    if settings.routing.deadlines.min > settings.routing.deadlines.max:
        problems.append("routing.deadlines.min: is longer than routing.deadlines.max")
    if settings.cache.exact and settings.cache.coalesce_wait >= settings.timeouts.idle:
        problems.append("cache.coalesce_wait: is no shorter than timeouts.idle, which would end a request that waits")
    listen = settings.listen
    if listen.ops is not None and listen.ops.port == listen.port:
        problems.append("listen.ops.port: is listen.port too")
    return problems


def unknown_models(path: str, auto: Mapping[Tier, Sequence[str]], names: Collection[str]) -> list[str]:
    """A line for each model in the tiers at `path` that is not among `names`."""
    return [
        f"{path}.{tier}[{at}]: {unknown('model', name, names)}"
        for tier, chosen in auto.items()
        for at, name in enumerate(chosen)
        if name not in names
    ]


def _state_problems(url: str) -> list[str]:
    if url.partition("://")[0] in SENTINEL_SCHEMES:
        try:
            of_sentinels(url)
        except ValueError as error:
            return [f"state.url: {error}"]
    return []


def _team_problems(settings: Settings) -> list[str]:
    """Ids and keys that must not repeat."""
    problems = []
    owners: dict[str, str] = {}
    ids: set[str] = set()
    for index, team in enumerate(settings.teams):
        if team.id in ids:
            problems.append(f"teams[{index}].id: {team.id} is defined twice")
        ids.add(team.id)
        if not team.keys and not settings.auth.jwt:
            problems.append(f"teams[{index}].keys: at least one is needed")
        for at, key in enumerate(team.keys):
            if owners.setdefault(key, team.id) != team.id:
                problems.append(f"teams[{index}].keys[{at}]: the same key belongs to {owners[key]}")
            if key in settings.admin.keys:
                problems.append(f"teams[{index}].keys[{at}]: the same key is an admin key")
    return problems


def _token_problems(settings: Settings) -> list[str]:
    """Issuers that must not repeat, and teams that tokens name."""
    problems = []
    issuers: set[str] = set()
    ids = [team.id for team in settings.teams]
    for index, issuer in enumerate(settings.auth.jwt):
        if issuer.issuer in issuers:
            problems.append(f"auth.jwt[{index}].issuer: {issuer.issuer} is defined twice")
        issuers.add(issuer.issuer)
        problems += [
            f"auth.jwt[{index}].teams.{value}: {unknown('team', team, ids)}"
            for value, team in issuer.teams.items()
            if team not in ids
        ]
    return problems
