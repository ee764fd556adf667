"""`gateway check`: what a configuration does, in words, and what in it looks like a mistake.

In: checked Settings. Out: an `Explanation`, printed as text or JSON. Credentials and keys are never part of it.
"""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

import msgspec

from control import check_doors as doors
from control import check_pairs as pairs
from extproc.catalog import AUTO, TIERS, Catalog, compile_catalog
from extproc.embedding.installed import lacking
from extproc.records import Price
from extproc.settings import Budget, Limits, Model, Provider, Settings

_DAY_S = 86_400


class ProviderLine(msgspec.Struct, frozen=True):
    """Where a provider is and whether the gateway can log in there."""

    name: str
    format: str
    base_url: str | None
    simulated: bool
    credential: bool
    signed_for: str | None  # an AWS region
    unsupported: tuple[str, ...]  # of OpenAI's parameters, not sent there


class ModelLine(msgspec.Struct, frozen=True):
    """A model, what it costs (USD per 1M tokens), and who stands in for it, in the order of the attempts."""

    name: str
    provider: str
    upstream_name: str
    tier: str | None
    input_usd: float | None
    output_usd: float | None
    context: int | None
    max_output: int | None
    failover: tuple[str, ...]
    unsupported: tuple[str, ...]  # of OpenAI's parameters, not sent for it, though its provider takes them


class TeamLine(msgspec.Struct, frozen=True):
    """A team: how many keys it has, which models it may use, what it may spend."""

    id: str
    keys: int
    models: tuple[str, ...]
    budget: Budget
    limits: Limits


class Explanation(msgspec.Struct, frozen=True):
    """The whole configuration as `gateway check` shows it."""

    listen: str
    state: str
    data_dir: str
    workers: int
    attempts: int
    admin_keys: int
    providers: tuple[ProviderLine, ...]
    models: tuple[ModelLine, ...]
    auto: dict[str, tuple[str, ...]]
    cache: str
    tokens: tuple[str, ...]
    cors: tuple[str, ...]
    audit: str
    teams: tuple[TeamLine, ...]
    warnings: tuple[str, ...]


def explain(settings: Settings) -> Explanation:
    """Everything `gateway check` says about `settings`."""
    catalog = compile_catalog(settings)
    return Explanation(
        listen=doors.listens(settings),
        state="embedded" if settings.state.url == "embedded" else "external",  # the URL may hold a password
        data_dir=str(settings.data_dir),
        workers=settings.workers,
        attempts=settings.routing.attempts,
        admin_keys=len(settings.admin.keys),
        providers=tuple(_provider(name, provider) for name, provider in settings.providers.items()),
        models=tuple(_model(model, settings, catalog) for model in settings.models),
        auto={tier: tuple(names) for tier, names in settings.auto.items()},
        cache=_cache(settings),
        tokens=tuple(map(doors.tokens, settings.auth.jwt)),
        cors=tuple(settings.cors.allow_origins),
        audit=_audit(settings),
        teams=tuple(
            TeamLine(
                id=team.id,
                keys=len(team.keys),
                models=tuple(sorted(view.models)),
                budget=team.budget,
                limits=team.limits,
            )
            for team, view in zip(settings.teams, catalog.views.values(), strict=True)
        ),
        warnings=tuple(warnings(settings, catalog)),
    )


def _provider(name: str, provider: Provider) -> ProviderLine:
    return ProviderLine(
        name=name,
        format=provider.wire_format,
        base_url=None if provider.is_demo else provider.base_url,
        simulated=provider.is_demo,
        credential=bool(provider.credential),
        signed_for=provider.signing_region,
        unsupported=tuple(sorted(provider.refused_parameters())),
    )


def _model(model: Model, settings: Settings, catalog: Catalog) -> ModelLine:
    target = catalog.targets[model.name]
    return ModelLine(
        name=model.name,
        provider=target.provider,
        upstream_name=target.upstream_name,
        tier=model.tier,
        input_usd=_usd_per_million(target.price.input),
        output_usd=_usd_per_million(target.price.output),
        context=target.context_tokens,
        max_output=target.max_output_tokens,
        failover=tuple(
            f"{other.model} (prompt rewritten)" if other.rewrite else other.model
            for other in catalog.stand_ins[model.name][: catalog.routing.attempts - 1]
        ),
        unsupported=tuple(sorted(target.unsupported - settings.providers[model.provider].refused_parameters())),
    )


def _cache(settings: Settings) -> str:
    """What the cache does, in one line."""
    cache = settings.cache
    if not cache.exact:
        return "off"
    shared = [team.id for team in settings.teams if team.cache.shared]
    parts = [
        f"the same request, for {_duration(cache.ttl)}",
        *([_similar(settings)] if cache.semantic.enabled else []),
        *(["also at a temperature above 0"] if cache.temperature_above_zero else []),
        *(["also answers that call tools"] if cache.tool_calls else []),
        *([] if cache.record else ["nothing new is kept"]),
        f"shared by {', '.join(shared)}" if shared else "each team apart",
    ]
    return "; ".join(parts)


def _similar(settings: Settings) -> str:
    cache = settings.cache
    if lacking():
        return "similar ones not, for want of models"
    at_zero = "" if cache.temperature_above_zero else ", asked at temperature 0 (unset is above)"
    return f"similar ones too{at_zero}, with at most {100 * cache.semantic.max_wrong_hit_rate:g} % wrong"


def _audit(settings: Settings) -> str:
    """Where audit rows are read, in one line."""
    audit, kept = settings.audit, f"kept for {_duration(settings.retention)}"
    if not audit.shared:
        return f"in the journal, {kept}"
    return f"PostgreSQL at {audit.place}, partitions of a {audit.partition}, {kept}"


def _duration(seconds: float) -> str:
    if seconds > _DAY_S and seconds % _DAY_S == 0:
        return f"{seconds / _DAY_S:g}d"
    unit, length = next((item for item in (("h", 3600.0), ("m", 60.0)) if seconds % item[1] == 0), ("s", 1.0))
    return f"{seconds / length:g}{unit}"


def _usd_per_million(pico_usd_per_token: int | None) -> float | None:
    return None if pico_usd_per_token is None else pico_usd_per_token / 1_000_000


def warnings(settings: Settings, catalog: Catalog) -> Iterator[str]:
    """What is allowed but probably not meant, one line each, beginning with the path of the key."""
    names = [model.name for model in settings.models]
    auto: dict[str, list[str]] = dict(settings.auto.items())
    for index, model in enumerate(settings.models):
        yield from _model_warnings(index, model, catalog)
    for tier in TIERS:
        if auto and not auto.get(tier):
            yield f"routing.auto.{tier}: has no model; `auto` takes one of another tier"
    if catalog.routing.attempts > 1 and not settings.equivalents:
        yield f"routing.attempts: is {catalog.routing.attempts}, but without equivalents there is no failover"
    for index, team in enumerate(settings.teams):
        policy = catalog.views[team.id].policy
        if policy.save_share is not None and policy.save_share > policy.most_saved:
            path = f"teams[{index}].routing" if team.routing.target else "routing"
            yield f"{path}.target.save_pct: the prices of the tiers allow at most {100 * policy.most_saved:.0f}"
        for at, pattern in enumerate(team.models):
            if pattern != AUTO and not any(fnmatchcase(name, pattern) for name in names):
                yield f"teams[{index}].models[{at}]: {pattern} matches no model"
    yield from _provider_warnings(settings)
    yield from _cache_warnings(settings)
    yield from pairs.warnings(settings, catalog)
    if settings.audit.shared and not settings.audit.encrypted:
        yield "audit.url: rows may travel unencrypted; add ?sslmode=verify-full"
    yield from doors.warnings(settings)
    if not settings.admin.keys and not any(issuer.admin for issuer in settings.auth.jwt):
        yield "admin.keys: none; nobody can use the admin endpoints"


def _cache_warnings(settings: Settings) -> Iterator[str]:
    cache = settings.cache
    if cache.semantic.enabled and not cache.exact:
        yield "cache.semantic.enabled: has no effect without cache.exact"
    if cache.semantic.enabled:
        yield from (f"cache.semantic.enabled: similar questions are not found: {what}" for what in lacking())
    if not cache.exact and any(team.cache.shared for team in settings.teams):
        yield "teams: cache.shared has no effect without cache.exact"
    if sum(team.cache.shared for team in settings.teams) == 1:
        yield "teams: only one team has cache.shared; it shares with nobody"
    if cache.max_entry_bytes > cache.max_bytes_per_team:
        yield "cache.max_entry_bytes: is larger than max_bytes_per_team; such an answer is not kept"


def _provider_warnings(settings: Settings) -> Iterator[str]:
    used = {model.provider for model in settings.models}
    for name, provider in settings.providers.items():
        if name not in used:
            yield f"providers.{name}: no model uses it"
        if not provider.is_demo and not provider.credential:
            yield f"providers.{name}.credential: none; requests go there without one"
        if provider.credential and (provider.base_url or "").startswith("http://") and not provider.is_demo:
            yield f"providers.{name}.base_url: the credential would travel unencrypted"


def _model_warnings(index: int, model: Model, catalog: Catalog) -> Iterator[str]:
    price: Price = catalog.targets[model.name].price
    missing = [part for part in ("input", "output") if getattr(price, part) is None]
    if missing:
        yield f"models[{index}].price: {model.name} has no {' and no '.join(missing)} price; its cost is unknown"
    if model.context is None:
        yield f"models[{index}].context: {model.name} has none; too long requests are only refused by the provider"
    elif model.max_output is not None and model.max_output > model.context:
        yield f"models[{index}].max_output: is more than its context"


def _without(names: tuple[str, ...]) -> str:
    return f"without {', '.join(names)}" if names else ""


def as_text(explanation: Explanation) -> str:
    """For people."""
    say = explanation
    lines = [
        f"listens on {say.listen}; {say.workers} workers; state {say.state}; data in {say.data_dir}; "
        f"{say.admin_keys or 'no'} admin key{'' if say.admin_keys == 1 else 's'}",
        "",
        "providers",
        *_table((p.name, p.format, _where(p), _credential(p), _without(p.unsupported)) for p in say.providers),
        "",
        f"models (USD per 1M tokens in/out; failover: {say.attempts} attempts in all)",
        *_table(
            (
                m.name,
                m.provider + ("" if m.upstream_name == m.name else f":{m.upstream_name}"),
                m.tier or "-",
                f"{_number(m.input_usd)}/{_number(m.output_usd)}",
                f"context {_number(m.context)}",
                f"then {', '.join(m.failover)}" if m.failover else "no failover",
                _without(m.unsupported),
            )
            for m in say.models
        ),
        "",
        "auto",
        *_table((tier, ", ".join(say.auto[tier])) for tier in TIERS if tier in say.auto),
        *([] if any(say.auto.values()) else ["  not set"]),
        "",
        f"cache: {say.cache}",
        f"audit: {say.audit}",
        "",
        *(["tokens", *(f"  {line}" for line in say.tokens), ""] if say.tokens else []),
        *([f"pages that may call: {', '.join(say.cors)}", ""] if say.cors else []),
        "teams",
        *_table(
            (t.id, f"{t.keys} key{'' if t.keys == 1 else 's'}", _limits(t), ", ".join(t.models) or "no model")
            for t in say.teams
        ),
    ]
    if say.warnings:
        lines += ["", "warnings", *(f"  {text}" for text in say.warnings)]
    return "\n".join(lines) + "\n"


def _credential(provider: ProviderLine) -> str:
    if provider.signed_for:
        return f"signed for {provider.signed_for} with Envoy's AWS credentials"
    return "credential" if provider.credential else "no credential"


def _where(provider: ProviderLine) -> str:
    return "built-in simulator" if provider.simulated else provider.base_url or ""


def _limits(team: TeamLine) -> str:
    given = {**team.budget.model_dump(), **team.limits.model_dump()}
    numbers = {
        name: value for name, value in given.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    texts = [f"{name} {_number(value)}" for name, value in numbers.items() if value or name != "burst_tokens"]
    return ", ".join(texts + (["strict"] if team.budget.strict else [])) or "no limit"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]


def as_json(explanation: Explanation) -> bytes:
    """For programs."""
    encoded = msgspec.json.encode(explanation, enc_hook=lambda model: model.model_dump())
    return msgspec.json.format(encoded, indent=2)
