"""What only Envoy has counted, as metric families.

In: its statistics, by its admin interface. Out: families; without samples while it is not there. They begin anew when
it does. Source: envoyproxy.io/docs/envoy/latest/configuration/upstream/cluster_manager/cluster_stats.
"""

import re
from pathlib import Path
from typing import Final

import msgspec

from control.families import Family, Sample
from extproc.process.http1 import ask
from extproc.wire import WORKERS


class _Counted(msgspec.Struct, frozen=True):
    name: str
    text: str
    results: dict[str, str]  # Envoy's statistic -> what it is the result of


_COUNTED: Final = (
    _Counted(
        "gateway.taken_over_requests",
        "Requests whose worker was away, died or hung before it had decided: another did (decided), or none was there"
        " in time (given_up).",
        {
            f"cluster.{WORKERS}.upstream_rq_retry_success": "decided",
            f"cluster.{WORKERS}.upstream_rq_retry_limit_exceeded": "given_up",
        },
    ),
)
_WANTED: Final = "|".join(re.escape(statistic) for one in _COUNTED for statistic in one.results)


async def families(admin: Path) -> list[Family]:
    """All of them."""
    try:
        _, text = await ask(admin, f"/stats?filter=^({_WANTED})$")
        found = {name: int(value) for name, value in re.findall(r"^([\w.]+): (\d+)\r?$", text, re.M)}
    except (OSError, TimeoutError):
        found = {}
    return [
        Family(
            name=one.name,
            kind="counter",
            text=one.text,
            samples=[
                Sample({"result": result}, found[statistic])
                for statistic, result in one.results.items()
                if statistic in found
            ],
        )
        for one in _COUNTED
    ]
