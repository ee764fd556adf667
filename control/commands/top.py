"""`gateway top`: what goes on now, drawn again every second or two.

In: usage, the last hour's series, providers' health, the last requests. Out: the terminal's whole screen until Ctrl-C;
one picture where stdout is no terminal; with `--json` one line a look. While the gateway is away the last picture
stays, and says so.
"""

import time
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from control.commands import requests, usage
from control.commands.client import Client, CommandError
from control.commands.options import as_json, asks, print_json
from control.commands.show import bar, clock, console, count, ms, share, table, text, usd, word

_ROWS = 12
_MINUTES = 5
_KEY_REFUSED = 3


@click.command()
@click.option("--every", type=click.FloatRange(0.5, 3600), default=2.0, show_default=True, help="Seconds.")
@click.option("--looks", type=click.IntRange(1), help="End after so many. Default: until Ctrl-C.")
@as_json
@asks
def top(client: Client, every: float, looks: int | None, as_json: bool) -> None:
    """Live: rates, budgets, providers, the last requests."""
    out = console()
    if as_json or not out.is_terminal:
        for turn in range(looks or (10**9 if as_json else 1)):
            time.sleep(every if turn else 0)
            found = look(client)
            print_json(found) if as_json else out.print(picture(found))
        return
    found = look(client)
    with Live(picture(found), console=out, screen=True, auto_refresh=False) as live:
        for _ in range((looks or 10**9) - 1):
            time.sleep(every)
            problem = ""
            try:
                found = look(client)
            except CommandError as error:
                if error.exit_code == _KEY_REFUSED:
                    raise
                problem = str(error)
            live.update(picture(found, problem), refresh=True)


def look(client: Client) -> dict[str, Any]:
    """Everything that is shown. Raises CommandError."""
    return {
        "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "url": client.url,
        "usage": usage.fetch(client, None),
        "series": client.get("/v1/usage/series", window="1h"),
        "providers": client.get("/v1/providers/health")["providers"],
        "requests": client.get("/v1/requests", limit=_ROWS)["requests"],
    }


def picture(found: dict[str, Any], problem: str = "") -> Group:
    """One screen."""
    head = Text.assemble(("gateway ", "bold"), found["url"], "  ", clock(found["at"]))
    if problem:
        head.append(f"  {problem}", style="bold red")
    latest = requests.listed(found["requests"]) if found["requests"] else Text("No requests yet.", style="dim")
    return Group(head, _rates(found), _budgets(found["usage"]), _providers(found["providers"]), latest)


def _rates(found: dict[str, Any]) -> Text:
    """Of the last minutes that are over, and the one that is on."""
    since = datetime.fromisoformat(found["at"]).timestamp() - 60 * _MINUTES
    points = [p for p in found["series"]["points"] if datetime.fromisoformat(p["at"]).timestamp() >= since]
    asked = sum(point["requests"] for point in points)
    failed = sum(point["failed"] for point in points)
    tokens = sum(point["input_tokens"] + point["output_tokens"] for point in points)
    took = sum(point["latency_ms"] * point["requests"] for point in points) / asked if asked else None
    return Text.assemble(
        (f"last {_MINUTES} min  ", "dim"),
        *("requests ", count(asked), f" ({asked / 60 / _MINUTES:.2g}/s)  "),
        *("failed ", Text(str(failed), style="red" if failed else "green"), "  "),
        *("tokens ", count(tokens), "  cost ", usd(sum(point["cost_usd"] for point in points)), "  "),
        *("mean ", ms(took)),
    )


def _budgets(found: dict[str, Any]) -> Table:
    shown = table("team", "today", ">tokens", ">held", ">cost", "month", ">tokens", ">cost")
    teams = sorted(usage.teams_of(found), key=lambda team: -team["daily"]["used_tokens"])
    for team in teams[:_ROWS]:
        day, month = team["daily"], team["monthly"]
        shown.add_row(
            text(team["team_id"]),
            bar(day["pct_used"]),
            *(count(day["used_tokens"]), count(day["held_tokens"]), usd(day["used_usd"])),
            bar(month["pct_used"]),
            *(count(month["used_tokens"]), usd(month["used_usd"])),
        )
    return shown


def _providers(found: list[dict[str, Any]]) -> Table:
    shown = table("provider", "status", "circuit", ">attempts/min", ">errors", ">first byte p50", ">p99")
    for provider in found:
        shown.add_row(
            text(provider["provider"]),
            word(provider["status"]),
            word(provider["circuit"]),
            count(provider["attempts_1m"]),
            share(provider["error_rate_1m"]),
            ms(provider["p50_latency_ms"]),
            ms(provider["p99_latency_ms"]),
        )
    return shown
