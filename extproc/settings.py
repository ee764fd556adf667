"""gateway.yaml: its types, defaults and rules, and how it is read.

In: YAML text and the environment. Out: a frozen, fully checked `Settings`. Every problem is reported at once as a
`SettingsError` whose lines name the path of the key that is wrong. The same types give the JSON Schema of the Helm
values. Who reads it: the supervisor and `gateway check`, once; the serving processes read the runtime file that
`extproc.runtime` makes of it, which holds no provider credential.
"""

import difflib
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from extproc.pricing import PriceTableError, price_tables
from extproc.records import Feature
from extproc.settings_routing import MAX_RULES, Auto, Rule, SaveTarget, TeamRouting

_ENV = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$"
_PROVIDER_NAME = r"^[a-z0-9][a-z0-9_-]{0,40}$"


class SettingsError(Exception):
    """The configuration cannot be used. `problems`: one line each, beginning with the path of the key."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _duration_s(value: object) -> object:
    """`2s`, `1500ms`, `24h`, `90d` or a number of seconds -> seconds."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if not match:
            raise ValueError("not a duration: write 2s, 1500ms, 24h or a number of seconds")
        return float(match[1]) * _UNIT_S[match[2]]
    return value


def _key_digest(value: object) -> object:
    """A plain key or `sha256:<hex>` -> `sha256:<hex>`: from here on no process holds the key itself."""
    if not isinstance(value, str):
        raise ValueError("a key must be a string")
    if value.startswith("sha256:"):
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", value):
            raise ValueError("after sha256: there must be 64 lower-case hex digits")
        return value
    if not value.strip():
        raise ValueError("a key must not be empty")
    return "sha256:" + hashlib.sha256(value.encode()).hexdigest()


def _has_port(url: SplitResult) -> bool:
    """Whether its port is one, if it names any."""
    try:
        return url.port != 0
    except ValueError:
        return False


def _known_zone(value: str) -> str:
    if value != "UTC":
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("not a time zone: write UTC or an IANA name such as Europe/Berlin") from None
    return value


def _without_last_slash(value: str) -> str:
    return value.rstrip("/")


Duration = Annotated[float, BeforeValidator(_duration_s), Field(gt=0)]
KeyDigest = Annotated[str, BeforeValidator(_key_digest)]
Url = Annotated[str, Field(pattern=r"^https?://[^/\s]+"), AfterValidator(_without_last_slash)]
Tokens = Annotated[int, Field(ge=0)]
Usd = Annotated[float, Field(ge=0)]
Percent = Annotated[float, Field(gt=0, le=100)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(_Model):
    """Where Envoy's ingress listens; the control API is served through it too."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=1, le=65535)


class State(_Model):
    """Shared state: `embedded`, or the URL of a Valkey/Redis server or cluster."""

    url: str = Field(
        default="embedded", pattern=r"^(embedded|(redis|rediss|unix|redis\+cluster|rediss\+cluster)://.+)$"
    )
    on_outage: Literal["fail_open", "fail_closed"] = "fail_open"


class Admin(_Model):
    """Bearer keys for the admin endpoints, plain or `sha256:<hex>`."""

    keys: list[KeyDigest] = []


class DemoFaults(_Model):
    """How the built-in simulator behaves; see `gateway demo --help`."""

    first_byte: Duration | None = None
    chunk_interval: Duration | None = None
    chunks: int | None = Field(default=None, ge=1)


class Provider(_Model):
    """A provider: its wire format, where it is, and its credential (which only Envoy ever holds)."""

    format: Literal["openai", "azure", "anthropic", "google", "bedrock", "demo"]
    base_url: str | None = None
    credential: str | None = Field(default=None, repr=False)
    credential_file: Path | None = Field(
        default=None, description="a file that holds the credential, such as a mounted Secret; its change is noticed"
    )
    speaks: Literal["openai", "anthropic", "google"] = Field(
        default="openai", description="for format: demo, the wire format the simulator speaks"
    )
    demo_without_credential: bool = Field(
        default=False, description="with an empty credential the built-in simulator stands in for this provider"
    )
    demo: DemoFaults = DemoFaults()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.format != "demo":
            if not self.base_url:
                raise ValueError("base_url: needed unless format is demo")
            url = urlsplit(self.base_url)
            if url.scheme not in ("http", "https") or not url.hostname or not _has_port(url):
                raise ValueError("base_url: must be http://host[:port][/path] or https://…")
            if self.demo_without_credential and self.format not in ("openai", "anthropic", "google"):
                raise ValueError("demo_without_credential: the simulator speaks openai, anthropic and google only")
        if self.credential_file is not None and self.demo_without_credential:
            raise ValueError("credential_file: not together with demo_without_credential")
        if self.credential is not None and re.search(r"[\x00-\x1f\x7f]", self.credential):
            raise ValueError("credential: must not contain control characters or line ends")
        return self

    @property
    def is_demo(self) -> bool:
        """Whether the built-in simulator answers for this provider."""
        return self.format == "demo" or (self.demo_without_credential and not self.credential)

    @property
    def wire_format(self) -> str:
        """The format spoken on the wire: openai, azure, anthropic, google or bedrock."""
        return self.speaks if self.format == "demo" else self.format


class TokenPrices(_Model):
    """USD per 1M tokens. A missing part is the list price's, if the model is known, else unknown, never 0."""

    input: Usd | None = None
    cached_input: Usd | None = Field(default=None, description="unknown: billed as input")
    cache_write: Usd | None = None
    cache_write_long: Usd | None = Field(default=None, description="into the longer-lived cache, such as 1 h")
    output: Usd | None = None
    reasoning: Usd | None = Field(default=None, description="unknown: billed as output")


class LongContext(TokenPrices):
    """Prices of a whole request whose input is larger than this."""

    above_input_tokens: int = Field(gt=0)


class ModelPrice(TokenPrices):
    """A model's price; `long_context: []` says that there are no tiers although the list price has them."""

    long_context: list[LongContext] | None = None


class Model(_Model):
    """A model a client can name, and what serves it."""

    name: str = Field(pattern=_NAME)
    provider: str
    upstream_name: str | None = Field(default=None, description="the provider's name of it; default: name")
    tier: Literal["simple", "medium", "hard"] | None = None
    price: ModelPrice = ModelPrice()
    context: int | None = Field(default=None, gt=0)
    max_output: int | None = Field(default=None, gt=0)
    features: list[Feature] = Field(
        default=["vision", "tools", "json_schema"], description="what it can do; requests that need more pass it over"
    )


class Prices(_Model):
    """List prices for models whose `price` here leaves something open."""

    file: Path | None = Field(default=None, description="a table made by `gateway prices import`, before the built-in")


class Equivalents(_Model):
    """Models that may stand in for one another, in failover order."""

    models: list[str] = Field(min_length=2)
    score: float = Field(default=1.0, ge=0, le=1)


class Deadlines(_Model):
    """`first_byte_timeout: auto`: `factor` times the model's p99 of the last five minutes, between `min` and `max`;
    `cold` (streams) and `cold_whole` (all else) as long as there were too few answers to know it."""

    min: Duration = 1.0
    max: Duration = 120.0
    factor: float = Field(default=3.0, ge=1)
    cold: Duration = 30.0
    cold_whole: Duration = 120.0


class Routing(_Model):
    """`model: auto` by tier, and how attempts are made. `attempts` counts all of them: 1 is no failover."""

    auto: Auto = {}
    rules: list[Rule] = Field(default=[], max_length=MAX_RULES)
    target: SaveTarget | None = None
    attempts: int = Field(default=3, ge=1, le=8)
    first_byte_timeout: Literal["auto"] | Duration = "auto"
    deadlines: Deadlines = Deadlines()
    hedge: bool = Field(
        default=False, description="attempts race after a fixed deadline too, and what lost races may cost is billed"
    )


class Budget(_Model):
    """Limits of a team per calendar day and month; null is no limit."""

    daily_tokens: Tokens | None = None
    monthly_tokens: Tokens | None = None
    daily_usd: Usd | None = None
    monthly_usd: Usd | None = None
    burst_tokens: Tokens = 0
    strict: bool = False
    timezone: Annotated[str, AfterValidator(_known_zone)] = Field(
        default="UTC", description="IANA name of the zone whose midnight begins a day and a month"
    )


class Limits(_Model):
    """Rates of a team; null is no limit."""

    requests_per_minute: int | None = Field(default=None, ge=0)
    tokens_per_minute: Tokens | None = None


class Alert(_Model):
    """When and where a team's budget alert goes."""

    threshold_pct: Percent | Annotated[list[Percent], Field(min_length=1)] = Field(
        default=80.0, description="one, or several, each told once per window"
    )
    webhook: str | None = Field(default=None, pattern=r"^https?://.+")
    secret: str | None = Field(default=None, repr=False)

    @property
    def thresholds_pct(self) -> tuple[float, ...]:
        """The thresholds, lowest first."""
        several = self.threshold_pct if isinstance(self.threshold_pct, list) else [self.threshold_pct]
        return tuple(sorted(set(several)))


class TeamCache(_Model):
    """`shared`: this team's answers are kept together with those of all teams that say so, and answer them too."""

    shared: bool = False


class Team(_Model):
    """A team: who it is, how much it may use, and which models (shell patterns)."""

    id: str = Field(pattern=_NAME)
    keys: list[KeyDigest] = Field(min_length=1)
    budget: Budget = Budget()
    limits: Limits = Limits()
    auto_downgrade: bool = False
    alert: Alert = Alert()
    models: list[str] = ["*"]
    routing: TeamRouting = TeamRouting()
    cache: TeamCache = TeamCache()


class Semantic(_Model):
    """Answers given to similar requests too, each partition's threshold held to `max_wrong_hit_rate`."""

    enabled: bool = False
    max_wrong_hit_rate: float = Field(default=0.01, gt=0, lt=1)
    sample_share: float = Field(
        default=0.05, ge=0, le=1, description="of the similar hits, asked of the provider too and compared"
    )
    samples_per_minute: int = Field(default=30, ge=0, description="at most, by each worker")


class Cache(_Model):
    """Answers kept and given again. `exact`: to the same request; each team's apart unless it opted to share."""

    exact: bool = False
    semantic: Semantic = Semantic()
    ttl: Duration = 86400.0
    temperature_above_zero: bool = Field(default=False, description="keep answers to a temperature above 0 too")
    tool_calls: bool = Field(default=False, description="keep answers that call tools")
    record: bool = Field(default=True, description="false: answer from what is kept, keep nothing new")
    max_entry_bytes: int = Field(default=1024 * 1024, ge=1024, description="a larger answer is not kept")
    max_bytes_per_team: int = Field(
        default=256 * 1024 * 1024, ge=1024 * 1024, description="beyond it what was not used for longest goes"
    )
    coalesce_wait: Annotated[float, BeforeValidator(_duration_s), Field(ge=0, le=25)] = Field(
        default=10.0, description="how long a request waits for the answer to the same one in flight; 0: not at all"
    )


class Budgets(_Model):
    hold_lease: Duration | None = None


class Breaker(_Model):
    """When a provider or model is left alone: after `consecutive_failures`, or from `error_rate` of at least
    `min_requests` in `window` on; for `open_for`, then `probe_share` of requests try whether it is back."""

    window: Duration = 60.0
    min_requests: int = Field(default=10, ge=1)
    error_rate: float = Field(default=0.5, gt=0, le=1)
    consecutive_failures: int = Field(default=5, ge=1)
    open_for: Duration = 15.0
    probe_share: float = Field(default=0.05, gt=0, le=1)
    max_retry_after: Duration = Field(default=60.0, description="a 429's Retry-After counts for no longer than this")


class OperatorAlerts(_Model):
    """Where alerts about providers go: a refused credential, say."""

    webhook: str | None = Field(default=None, pattern=r"^https?://.+")
    secret: str | None = Field(default=None, repr=False)


class Telemetry(_Model):
    """Traces and metrics to a collector, by OTLP over HTTP."""

    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://[^/\s]+"), AfterValidator(_without_last_slash)] | None = (
        Field(default=None, description="base URL, such as http://collector:4318; without it nothing is sent")
    )
    otlp_headers: dict[str, str] = Field(default={}, repr=False, description="such as a collector's API key")
    service_name: str = "llm-gateway"
    metrics_interval: Duration = 60.0
    content: bool = False


class Streams(_Model):
    """`native`: same-format streams pass by Envoy alone. `extproc`: every chunk passes the worker (ADR 3)."""

    same_format: Literal["native", "extproc"] = "native"


class Timeouts(_Model):
    """Upper bounds; every wait has one."""

    request: Duration = 600.0
    idle: Duration = 120.0
    drain: Duration = 30.0
    connect: Duration = 5.0


class Settings(_Model):
    """The whole file. Only providers, models and teams are required."""

    listen: Listen = Listen()
    state: State = State()
    data_dir: Path = Path(".gateway")
    workers: int = Field(default=2, ge=1, le=64)
    admin: Admin = Admin()
    providers: dict[Annotated[str, Field(pattern=_PROVIDER_NAME)], Provider] = Field(min_length=1)
    models: list[Model] = Field(min_length=1)
    prices: Prices = Prices()
    equivalents: list[Equivalents] = []
    routing: Routing = Routing()
    teams: list[Team] = Field(min_length=1)
    cache: Cache = Cache()
    budgets: Budgets = Budgets()
    breaker: Breaker = Breaker()
    alerts: OperatorAlerts = OperatorAlerts()
    telemetry: Telemetry = Telemetry()
    streams: Streams = Streams()
    timeouts: Timeouts = Timeouts()
    response_metadata: Literal["body", "headers"] = "body"
    retention: Duration = 90 * 86400.0
    transport: Literal["lean", "grpcio"] = Field(
        default="lean", description="how Envoy's gRPC calls are served: our own server, or grpcio's, slower"
    )


def load(path: Path, env: Mapping[str, str]) -> Settings:
    """Read and check the file at `path`, and the credential files it names. Raises SettingsError with every problem."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"]) from None
    return _with_credential_files(parse(text, env))


def _with_credential_files(settings: Settings) -> Settings:
    """`settings` with each `credential_file` read into the credential. Raises SettingsError."""
    providers, problems = dict(settings.providers), []
    for name, provider in settings.providers.items():
        if provider.credential_file is None:
            continue
        path = f"providers.{name}.credential_file"
        try:
            credential = provider.credential_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")
            continue
        if provider.credential is not None:
            problems.append(f"{path}: not together with credential")
        elif not credential or not credential.isprintable():
            problems.append(f"{path}: must hold the credential on one line")
        providers[name] = provider.model_copy(update={"credential": credential})
    if problems:
        raise SettingsError(problems)
    return settings.model_copy(update={"providers": providers})


def data_dir_of(path: Path, env: Mapping[str, str]) -> Path:
    """Where the file at `path` has its data, whatever else is wrong with it. Raises SettingsError."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError([f"{path}: cannot be read: {' '.join(str(error).split())}"]) from None
    named = raw.get("data_dir") if isinstance(raw, dict) else None
    problems: list[str] = []
    expanded = _expand(named, env, ("data_dir",), problems) if isinstance(named, str) else ""
    if problems:
        raise SettingsError(problems)
    return Path(expanded or Settings.model_fields["data_dir"].default)


def variables(text: str) -> set[str]:
    """The names of the environment variables that a YAML text asks for."""
    return {match[1] for match in _ENV.finditer(text)}


def parse(text: str, env: Mapping[str, str], *, list_prices: bool = True) -> Settings:
    """Check YAML text. `env` gives the values of `${NAME}` and `${NAME:-default}`. Raises SettingsError."""
    try:
        raw = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - derived from SafeLoader
    except yaml.YAMLError as error:
        raise SettingsError([f"not YAML: {' '.join(str(error).split())}"]) from None
    if not isinstance(raw, dict):
        raise SettingsError(["the file must be a mapping with providers, models and teams"])
    problems: list[str] = []
    expanded = _expand(raw, env, (), problems)
    if problems:
        raise SettingsError(problems)
    try:
        settings = Settings.model_validate(expanded)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None
    problems = list(_cross_check(settings))
    if problems:
        raise SettingsError(problems)
    return with_list_prices(settings) if list_prices else settings


def with_list_prices(settings: Settings) -> Settings:
    """Fill in what gateway.yaml leaves open of its models' prices. Raises SettingsError."""
    try:
        tables = price_tables(settings.prices.file)
    except PriceTableError as error:
        raise SettingsError([f"prices.file: {problem}" for problem in error.problems]) from None
    models = []
    for model in settings.models:
        found = tables.find(settings.providers[model.provider].wire_format, model.upstream_name or model.name)
        listed = ModelPrice.model_validate(msgspec.to_builtins(found[0].price)) if found else ModelPrice()
        if listed.long_context is None:  # a listed model without tiers has none
            listed = listed.model_copy(update={"long_context": [] if found else None})
        own = {name: value for name, value in model.price if value is not None}
        models.append(model.model_copy(update={"price": listed.model_copy(update=own)}))
    return settings.model_copy(update={"models": models})


def parse_team(raw: Mapping[str, Any]) -> Team:
    """Check one team by itself. Raises SettingsError; paths begin below the team."""
    try:
        return Team.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(_explain(error, Team)) from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice in one mapping, which YAML forbids and PyYAML forgives."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is written twice", key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _expand(value: Any, env: Mapping[str, str], path: tuple[str | int, ...], problems: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, env, (*path, key), problems) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, env, (*path, index), problems) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        found = env.get(match[1], match[2])
        if found is None:
            problems.append(f"{_dotted(path)}: the environment variable {match[1]} is not set")
        return found or ""

    return _ENV.sub(replace, value)


def _dotted(path: tuple[str | int, ...]) -> str:
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out


def _explain(error: ValidationError, root: type[_Model] = Settings) -> list[str]:
    lines = []
    for item in error.errors(include_url=False, include_input=False):
        loc = item["loc"]
        if item["type"] == "extra_forbidden":
            nearest = _nearest_key(loc, root)
            hint = f"; did you mean {nearest}?" if nearest else ""
            lines.append(f"{_dotted(loc)}: unknown key{hint}")
        else:
            text = item["msg"].removeprefix("Value error, ")
            lines.append(f"{_dotted(loc)}: {text[0].lower() + text[1:]}")
    return lines


def _nearest_key(loc: tuple[str | int, ...], root: type[_Model]) -> str | None:
    """The known key nearest to the unknown one at `loc`, found by walking the types along the path."""
    schema = root.model_json_schema()
    node: dict[str, Any] = schema
    for part in loc[:-1]:
        node = _resolve(schema, node)
        if isinstance(part, int):
            node = node.get("items", {})
        else:
            node = node.get("properties", {}).get(part) or node.get("additionalProperties") or _any_value(node)
    known = _resolve(schema, node).get("properties", {})
    matches = difflib.get_close_matches(str(loc[-1]), list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def _any_value(node: dict[str, Any]) -> dict[str, Any]:
    return next(iter(node.get("patternProperties", {}).values()), {})


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    node = next((option for option in node.get("anyOf", ()) if option.get("type") != "null"), node)  # X | None
    reference = node.get("$ref")
    resolved: dict[str, Any] = schema["$defs"][reference.rsplit("/", 1)[1]] if reference else node
    return resolved


def _cross_check(settings: Settings) -> list[str]:
    """Rules over several keys: names that must exist, names that must not repeat."""
    problems = []
    names = [model.name for model in settings.models]
    for index, model in enumerate(settings.models):
        if model.provider not in settings.providers:
            problems.append(f"models[{index}].provider: {_unknown('provider', model.provider, settings.providers)}")
        if model.name == "auto":
            problems.append(f"models[{index}].name: auto is reserved for routing by complexity")
        if model.name in names[:index]:
            problems.append(f"models[{index}].name: {model.name} is defined twice")
    for index, group in enumerate(settings.equivalents):
        problems += [
            f"equivalents[{index}].models[{at}]: {_unknown('model', name, names)}"
            for at, name in enumerate(group.models)
            if name not in names
        ]
    autos = [("routing.auto", settings.routing.auto)]
    autos += [(f"teams[{index}].routing.auto", team.routing.auto) for index, team in enumerate(settings.teams)]
    for path, auto in autos:
        problems += [
            f"{path}.{tier}[{at}]: {_unknown('model', name, names)}"
            for tier, chosen in auto.items()
            for at, name in enumerate(chosen)
            if name not in names
        ]
    if settings.routing.deadlines.min > settings.routing.deadlines.max:
        problems.append("routing.deadlines.min: is longer than routing.deadlines.max")
    problems += _team_problems(settings)
    for name, provider in settings.providers.items():
        if provider.format == "bedrock":
            problems.append(f"providers.{name}.format: bedrock is not served yet")
        if provider.format != "demo" and provider.credential == "" and not provider.demo_without_credential:
            problems.append(f"providers.{name}.credential: is empty; leave the key out if the provider needs none")
    return problems


def _team_problems(settings: Settings) -> list[str]:
    """Ids and keys that must not repeat."""
    problems = []
    owners: dict[str, str] = {}
    ids: set[str] = set()
    for index, team in enumerate(settings.teams):
        if team.id in ids:
            problems.append(f"teams[{index}].id: {team.id} is defined twice")
        ids.add(team.id)
        for at, key in enumerate(team.keys):
            if owners.setdefault(key, team.id) != team.id:
                problems.append(f"teams[{index}].keys[{at}]: the same key belongs to {owners[key]}")
            if key in settings.admin.keys:
                problems.append(f"teams[{index}].keys[{at}]: the same key is an admin key")
    return problems


def _unknown(kind: str, name: str, known: Any) -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"no {kind} is named {name}" + (f"; did you mean {nearest[0]}?" if nearest else "")
