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
    labels: dict[str, dict[str, str]]  # of each of Envoy's statistics that it is the sum of


_COUNTED: Final = (
    _Counted(
        "gateway.taken_over_requests",
        "Requests whose worker was away, died or hung before it had decided: another did (decided), or none was there"
        " in time (given_up).",
        {
            f"cluster.{WORKERS}.upstream_rq_retry_success": {"result": "decided"},
            f"cluster.{WORKERS}.upstream_rq_retry_limit_exceeded": {"result": "given_up"},
        },
    ),
    _Counted(
        "gateway.overload_refusals",
        "Requests that Envoy refused because it was near listen.max_memory.",
        {"http.ingress.downstream_rq_overload_close": {}},
    ),
)
_WANTED: Final = "|".join(re.escape(statistic) for one in _COUNTED for statistic in one.labels)


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
                Sample(labels, found[statistic]) for statistic, labels in one.labels.items() if statistic in found
            ],
        )
        for one in _COUNTED
    ]
