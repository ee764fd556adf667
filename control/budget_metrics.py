"""Budgets as metric families: what is used, held and allowed by the ledger; what settling still owes it.

In: how teams stand by the ledger; the journal's counts and its outbox. Out: families. Labels are configured teams,
windows, units and our own error codes: few, whatever clients send.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from sqlalchemy import Connection

from control.families import Family, Sample
from extproc.budget.ledger import Account, Standing
from extproc.budget.plan import NANO_PER_USD, nano_usd
from extproc.settings import Team
from extproc.settle.rows import UNRECONCILED

_AMOUNTS = {
    "used": ("gateway.budget.used", "Used in the calendar window of now, as settled."),
    "held": ("gateway.budget.held", "Reserved by requests that are not settled yet."),
    "limit": ("gateway.budget.limit", "The limit in force, top-ups included; no sample where there is none."),
}


def budgets(teams: Sequence[Team], standings: Mapping[str, Standing]) -> list[Family]:
    """Used, held and limit per team, window and unit; teams the ledger was not asked about are left out."""
    found = [
        (amount, {"team": team.id, "window": window, "unit": unit}, value)
        for team in teams
        if (standing := standings.get(team.id)) is not None
        for window, account in (("daily", standing.daily), ("monthly", standing.monthly))
        for unit, values in _units(team, window, account)
        for amount, value in zip(_AMOUNTS, values, strict=True)
        if value is not None
    ]
    up = Sample({}, 1 if standings or not teams else 0)
    return [
        *(
            Family(
                name=name,
                kind="gauge",
                text=text,
                samples=[Sample(labels, value) for of, labels, value in found if of == amount],
            )
            for amount, (name, text) in _AMOUNTS.items()
        ),
        Family(name="gateway.ledger.up", kind="gauge", text="1 while the ledger answers.", samples=[up]),
    ]


def _units(team: Team, window: str, account: Account) -> Iterator[tuple[str, tuple[float | None, ...]]]:
    """(unit, (used, held, limit)), in the order of _AMOUNTS."""
    tokens = getattr(team.budget, f"{window}_tokens")
    usd = nano_usd(getattr(team.budget, f"{window}_usd"))
    yield (
        "tokens",
        (account.used_tokens, account.held_tokens, None if tokens is None else tokens + account.topup_tokens),
    )
    nano = (account.used_nano_usd, account.held_nano_usd, None if usd is None else usd + account.topup_nano_usd)
    yield "usd", tuple(None if value is None else value / NANO_PER_USD for value in nano)


def settled(connection: Connection, teams: Sequence[Team], now_s: float) -> list[Family]:
    """Refusals, unreconciled holds, alerts, and how far settling is behind. Raises SQLAlchemyError.

    What an alarm goes by begins at 0 for every team: Prometheus sees an increase only of what it saw before.
    """
    reasons = connection.exec_driver_sql(
        "SELECT team_id, reason, requests FROM reason ORDER BY team_id, reason"
    ).fetchall()
    alerts = connection.exec_driver_sql(
        "SELECT team_id, count(*), sum(delivered = 0) FROM alert GROUP BY team_id ORDER BY team_id"
    ).fetchall()
    never = {team.id: 0 for team in teams}
    unreconciled = never | {team: count for team, reason, count in reasons if reason == UNRECONCILED}
    passed = never | {team: count for team, count, _ in alerts}
    waiting, oldest = connection.exec_driver_sql(
        "SELECT count(*), min(completed_at) FROM audit WHERE charged = 0"
    ).one()
    lag_s = 0.0 if oldest is None else max(0.0, now_s - oldest)
    return [
        _counter(
            "refused_requests",
            "Requests refused before they went to any provider, by error code.",
            (({"team": team, "reason": reason}, count) for team, reason, count in reasons if reason != UNRECONCILED),
        ),
        _counter(
            "unreconciled_requests",
            "Holds charged as held because nothing settled them within their lease.",
            (({"team": team}, count) for team, count in unreconciled.items()),
        ),
        _counter(
            "budget_alerts", "Alert thresholds passed.", (({"team": team}, count) for team, count in passed.items())
        ),
        _gauge("budget.alerts_waiting", "Alerts not delivered yet.", "", sum(late for _, _, late in alerts)),
        _gauge("settlement.outbox", "Audit rows the ledger has not been charged for yet.", "", waiting),
        _gauge("settlement.lag", "Age of the oldest of them.", "s", lag_s),
    ]


def _counter(name: str, text: str, samples: Iterable[tuple[dict[str, str], float]]) -> Family:
    return Family(
        name=f"gateway.{name}", kind="counter", text=text, samples=[Sample(labels, value) for labels, value in samples]
    )


def _gauge(name: str, text: str, unit: str, value: float) -> Family:
    return Family(name=f"gateway.{name}", kind="gauge", text=text, unit=unit, samples=[Sample({}, value)])
