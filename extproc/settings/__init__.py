"""gateway.yaml: its types, defaults and rules, and how it is read. A file for each of its parts.

The same types give the JSON Schema of the Helm values. Who reads it: the supervisor and `gateway check`, once; the
serving processes read the runtime file that `extproc.runtime` makes of it, which holds no provider credential.
"""

import os

# None of pydantic's plugins reads along, whatever is installed beside us; and nobody need look for them (10 ms).
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"

from extproc.settings.audit import Audit
from extproc.settings.auth import JwtIssuer
from extproc.settings.cache import Cache, Semantic
from extproc.settings.fields import Duration
from extproc.settings.listen import Cors, Listen, Ops, Tls
from extproc.settings.models import Model
from extproc.settings.problems import SettingsError
from extproc.settings.providers import Provider
from extproc.settings.read import data_dir_of, load, parse, parse_team, variables, with_list_prices
from extproc.settings.routing import Breaker, Routing
from extproc.settings.teams import Budget, Limits, Team
from extproc.settings.telemetry import Telemetry
from extproc.settings.whole import Settings

__all__ = [
    "Audit",
    "Breaker",
    "Budget",
    "Cache",
    "Cors",
    "Duration",
    "JwtIssuer",
    "Limits",
    "Listen",
    "Model",
    "Ops",
    "Provider",
    "Routing",
    "Semantic",
    "Settings",
    "SettingsError",
    "Team",
    "Telemetry",
    "Tls",
    "data_dir_of",
    "load",
    "parse",
    "parse_team",
    "variables",
    "with_list_prices",
]
