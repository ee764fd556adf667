"""`gateway usage`: what teams used and hold, of which limits."""

from typing import Any

import click
from rich.console import Group
from rich.table import Table

from control.commands.client import Client, segment
from control.commands.options import as_json, asks, print_json
from control.commands.show import bar, console, count, table, text, usd


@click.command()
@click.option("--team", metavar="ID", help="One team. A team's key sees its own anyway.")
@as_json
@asks
def usage(client: Client, team: str | None, as_json: bool) -> None:
    """What was used today and this month, and of which limits."""
    found = fetch(client, team)
    if as_json:
        print_json(found)
        return
    console().print(Group(budgets(teams_of(found)), models(found["top_models"])))


def fetch(client: Client, team: str | None) -> dict[str, Any]:
    """One team's usage, or all teams' for an administrator. Raises CommandError."""
    me = client.get("/v1/me")
    team = team or me["team_id"]
    found: dict[str, Any] = client.get(f"/v1/teams/{segment(team)}/usage" if team else "/v1/usage")
    return found


def teams_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The teams of either answer."""
    teams: list[dict[str, Any]] = found.get("teams", [found])
    return teams


def budgets(teams: list[dict[str, Any]]) -> Table:
    """A line for each team and window."""
    shown = table("team", "window", ">tokens", ">limit", ">held", ">cost", ">limit", "used")
    for team in teams:
        for window in ("daily", "monthly"):
            at = team[window]
            shown.add_row(
                text(team["team_id"]) if window == "daily" else "",
                "today" if window == "daily" else "month",
                count(at["used_tokens"]),
                count(at["limit_tokens"]),
                count(at["held_tokens"]),
                usd(at["used_usd"]),
                usd(at["limit_usd"]),
                bar(at["pct_used"]),
            )
    return shown


def models(used: list[dict[str, Any]]) -> Table | str:
    """What was used most this month."""
    if not used:
        return "Nothing was used this month."
    shown = table("model", ">requests", ">tokens", ">cost", title="Most used this month")
    for use in used:
        shown.add_row(text(use["model"]), count(use["requests"]), count(use["tokens"]), usd(use["cost_usd"]))
    return shown
