"""Teams: who they are, how much they may use, and which models."""

from pydantic import Field

from extproc.settings.fields import NAME, Amount, KeyDigest, Network, Percents, Section, Usd, Zone
from extproc.settings.routing import TeamRouting


class Budget(Section):
    """Limits of a team per calendar day and month; null is no limit."""

    daily_tokens: Amount | None = None
    monthly_tokens: Amount | None = None
    daily_usd: Usd | None = None
    monthly_usd: Usd | None = None
    burst_tokens: Amount = Field(default=0, description="beyond the day's tokens, for requests of high priority")
    strict: bool = Field(default=False, description="never passed: the most a request may be billed is held for it")
    timezone: Zone = Field(default="UTC", description="IANA name of the zone whose midnight begins a day and a month")


class Limits(Section):
    """Rates of a team; null is no limit."""

    requests_per_minute: Amount | None = None
    tokens_per_minute: Amount | None = None


class Alert(Section):
    """When and where a team's budget alert goes."""

    threshold_pct: Percents = Field(default=[80.0], description="one, or several, each told once per window")
    webhook: str | None = Field(default=None, pattern=r"^https?://.+")
    secret: str | None = Field(default=None, repr=False)

    @property
    def thresholds_pct(self) -> tuple[float, ...]:
        """The thresholds, lowest first."""
        return tuple(sorted(set(self.threshold_pct)))


class TeamCache(Section):
    """`shared`: this team's answers are kept together with those of all teams that say so, and answer them too."""

    shared: bool = False


class Team(Section):
    """A team: who it is, how much it may use, and which models (shell patterns)."""

    id: str = Field(pattern=NAME)
    keys: list[KeyDigest] = Field(default=[], description="at least one, unless auth.jwt names the team")
    allowed_ips: list[Network] = Field(default=[], description="its clients' addresses; empty: all")
    budget: Budget = Budget()
    limits: Limits = Limits()
    auto_downgrade: bool = Field(
        default=False, description="from the lowest alert threshold on, `auto` answers from the next cheaper tier"
    )
    alert: Alert = Alert()
    models: list[str] = Field(default=["*"])
    routing: TeamRouting = TeamRouting()
    cache: TeamCache = TeamCache()
