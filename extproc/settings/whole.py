"""The whole of gateway.yaml, and its small sections."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from extproc.settings.audit import Audit
from extproc.settings.auth import Auth
from extproc.settings.cache import Cache
from extproc.settings.fields import Duration, KeyDigest, Section
from extproc.settings.listen import Cors, Listen
from extproc.settings.models import Equivalents, Model, Prices
from extproc.settings.providers import Provider
from extproc.settings.routing import Auto, Breaker, Routing
from extproc.settings.teams import Team
from extproc.settings.telemetry import OperatorAlerts, Telemetry
from extproc.state import TIMEOUT_S

_PROVIDER_NAME = r"^[a-z0-9][a-z0-9_-]{0,40}$"


class State(Section):
    """Shared state: `embedded`, or the URL of a Valkey or Redis: a server, a cluster, or its Sentinels."""

    url: str = Field(default="embedded", pattern=r"^(embedded|unix://.+|rediss?(\+cluster|\+sentinel)?://.+)$")
    timeout: Duration = Field(default=TIMEOUT_S, description="of each wait for it; then a request goes on without it")
    on_outage: Literal["fail_open", "fail_closed"] = Field(
        default="fail_open", description="while it is away: admit within a share of what was left, or refuse"
    )


class Admin(Section):
    """Bearer keys for the admin endpoints, plain or `sha256:<hex>`."""

    keys: list[KeyDigest] = Field(default=[])


class Budgets(Section):
    """What holds of all teams have in common."""

    hold_lease: Duration | None = Field(
        default=None, description="until a hold that nobody settles is charged; default: timeouts.request and 30 s"
    )


class Streams(Section):
    """`native`: same-format streams pass by Envoy alone. `extproc`: every chunk passes the worker (ADR 3)."""

    same_format: Literal["native", "extproc"] = "native"


class Timeouts(Section):
    """Upper bounds; every wait has one."""

    request: Duration = Field(default=600.0, description="until it has come, then of all its attempts")
    idle: Duration = Field(
        default=300.0, description="of a connection on which nothing moves: a model may think for minutes"
    )
    drain: Duration = Field(default=30.0, description="at the end, for what is in flight; what runs longer is cut off")
    connect: Duration = Field(default=1.5, description="TLS included; a lost packet is sent again after 1 s")


class Settings(Section):
    """The whole file. Only providers, models and teams are required."""

    listen: Listen = Listen()
    cors: Cors = Cors()
    state: State = State()
    data_dir: Path = Path(".gateway")
    workers: int = Field(default=2, ge=1, le=64)
    admin: Admin = Admin()
    auth: Auth = Auth()
    providers: dict[Annotated[str, Field(pattern=_PROVIDER_NAME)], Provider] = Field(min_length=1)
    models: list[Model] = Field(min_length=1)
    prices: Prices = Prices()
    equivalents: list[Equivalents] = Field(default=[])
    routing: Routing = Routing()
    teams: list[Team] = Field(min_length=1)
    cache: Cache = Cache()
    budgets: Budgets = Budgets()
    breaker: Breaker = Breaker()
    alerts: OperatorAlerts = OperatorAlerts()
    telemetry: Telemetry = Telemetry()
    audit: Audit = Audit()
    streams: Streams = Streams()
    timeouts: Timeouts = Timeouts()
    response_metadata: Literal["body", "headers"] = Field(
        default="body", description="where a whole answer says who answered and what it cost; headers say it always"
    )
    retention: Duration = 90 * 86400.0
    transport: Literal["lean", "grpcio"] = Field(
        default="lean", description="how Envoy's gRPC calls are served: our own server, or grpcio's, slower"
    )

    @property
    def auto(self) -> Auto:
        """The models of each tier of `auto`: as `routing.auto` says, or else by their own `tier`."""
        if self.routing.auto:
            return self.routing.auto
        tiers: Auto = {}
        for model in self.models:
            if model.tier is not None:
                tiers.setdefault(model.tier, []).append(model.name)
        return tiers
