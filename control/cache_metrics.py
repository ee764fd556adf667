"""Metrics of the cache: what came of requests, what is kept, how near a similar question must be.

In: counts of events, sizes, what checks say of semantic hits. Out: metric families. Called by `control.cache`.
"""

from collections.abc import Mapping

import msgspec

from control.families import Family, Sample

NANO = 1e9
Totals = Mapping[tuple[str, str, str], int]  # by team, event and detail


class Semantic(msgspec.Struct, frozen=True, kw_only=True):
    """`upper`: with 95 % confidence no larger a share of semantic hits is wrong."""

    threshold: float
    checked: int
    wrong: int
    upper: float


class _Counter(msgspec.Struct, frozen=True):
    """One counter of the metrics: which events it counts, and under which labels."""

    name: str
    text: str
    events: Mapping[str, Mapping[str, str]]  # each with its own labels
    detail: str = ""  # the label of an event's detail
    unit: str = ""


_COUNTERS = (
    _Counter(
        "requests",
        "Requests by what the cache did with them, and why it was passed by.",
        {
            "hits": {"result": "hit"},
            "semantic_hits": {"result": "semantic-hit"},
            "misses": {"result": "miss"},
            "bypasses": {"result": "bypass"},
        },
        "reason",
    ),
    _Counter(
        "not_similar",
        "Misses for which a similar request was looked for, by what ruled it out.",
        {"not_similar": {}},
        "reason",
    ),
    _Counter("coalesced", "Hits that waited for the same request in flight.", {"coalesced": {}}),
    _Counter("stores", "Answers kept.", {"stores": {}}),
    _Counter("refused", "Answers not kept, by why.", {"refused": {}}, "reason"),
    _Counter("evictions", "Entries that had to go for others.", {"evictions": {}}),
    _Counter("errors", "Calls that the store did not answer in time.", {"errors": {}}, "operation"),
    _Counter("saved_tokens", "Tokens that hits did not use.", {"saved_tokens": {}}),
    _Counter("saved_cost", "What hits did not cost.", {"saved_nano_usd": {}}, unit="USD"),
    _Counter("checked", "Semantic hits compared with the provider's own answer.", {"checked": {}}),
    _Counter("wrong", "Of these, those that were wrong.", {"wrong": {}}),
)


def families(
    totals: Totals, sizes: Mapping[str, tuple[int, int]], semantic: Mapping[str, Semantic], limit: float
) -> list[Family]:
    """`totals`: of this replica. `sizes` (entries, bytes) and `semantic`: by partition of the shared state, so the same
    at every replica. `limit`: the share of semantic hits that may be wrong."""
    return [
        *_counters(totals),
        _gauge("entries", "Entries kept.", {name: entries for name, (entries, _) in sizes.items()}),
        _gauge("size", "Bytes of entries kept.", {name: size for name, (_, size) in sizes.items()}, unit="By"),
        _gauge(
            "semantic_threshold",
            "How near a question must be: a cosine; above 1 none is.",
            {name: found.threshold for name, found in semantic.items()},
        ),
        _gauge(
            "semantic_wrong_hit_rate_upper",
            "With 95 % confidence no larger a share of semantic hits is wrong.",
            {name: found.upper for name, found in semantic.items()},
        ),
        # So that an alarm need not repeat the number.
        Family(
            name="gateway.cache.semantic_wrong_hit_rate_limit",
            kind="gauge",
            text="The share of semantic hits that may be wrong: cache.semantic.max_wrong_hit_rate.",
            samples=[Sample({}, limit)],
        ),
    ]


def _counters(totals: Totals) -> list[Family]:
    return [
        Family(
            name=f"gateway.cache.{each.name}",
            kind="counter",
            text=each.text,
            unit=each.unit,
            samples=[
                Sample(
                    {"team": team, **each.events[event], **({each.detail: detail} if each.detail else {})},
                    number / NANO if each.unit == "USD" else number,
                )
                for (team, event, detail), number in sorted(totals.items())
                if event in each.events
            ],
        )
        for each in _COUNTERS
    ]


def _gauge(name: str, text: str, values: Mapping[str, float], unit: str = "") -> Family:
    """One value for each partition."""
    return Family(
        name=f"gateway.cache.{name}",
        kind="gauge",
        text=text,
        unit=unit,
        samples=[Sample({"partition": partition}, value) for partition, value in values.items()],
    )
