"""`gateway requests`: the audit rows, and new ones as they come.

In: pages of `GET /v1/requests`. Out: a table; with `--follow` or `--json` a line for each request, oldest first. A row
appears when its request has ended, among rows of requests that came after it: following looks back as far as the
longest requests take, and knows what it has shown. While the gateway is away it says so once, and waits.
"""

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count as count_from
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from control.commands.client import Client, CommandError
from control.commands.options import as_json, asks, print_json
from control.commands.show import clock, console, count, ms, table, text, usd, word

_EVERY_S = 1.0
_LOOK_BACK_S = 600.0
_WHOLE_EVERY = 10  # looks: a request that took long is shown so much later
_PAGE_ROWS = 200
_MOST_OF_A_PAGE = 1_000
_MOST_AT_ONCE = 20_000
_REMEMBERED = 100_000
_KEY_REFUSED = 3
_FIRST_FIGURE = 6  # columns from here on are figures


@click.command(short_help="The latest requests, and new ones as they come.")
@click.option("--team", metavar="ID", help="Of one team. A team's key sees its own anyway.")
@click.option("--since", metavar="TIME", help="RFC 3339, or seconds since the epoch.")
@click.option("--until", metavar="TIME", help="The same.")
@click.option("--status", type=click.Choice(["success", "failed", "fallback", "cancelled", "refused"]))
@click.option("--model", metavar="NAME", help="Asked for, or used.")
@click.option("--provider", metavar="NAME", help="That answered.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=20, show_default=True)
@click.option("--follow", "-f", is_flag=True, help="Go on with new ones, until Ctrl-C.")
@as_json
@asks
def requests(client: Client, team: str | None, limit: int, follow: bool, as_json: bool, **others: Any) -> None:
    """The latest requests: what was asked, what answered, what it cost."""
    wanted = {"team_id": team, **others}
    if follow:
        _follow(client, wanted, limit, as_json)
        return
    rows = _fetch(client, wanted, limit)
    if as_json:
        for row in reversed(rows):
            print_json(row)
    elif rows:
        console().print(listed(rows))
    else:
        console().print("No requests.")


def _fetch(client: Client, wanted: dict[str, Any], limit: int) -> list[dict[str, Any]]:
    """Newest first; how far it is shows on stderr where many are asked for. Raises CommandError."""
    rows: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True), transient=True, disable=limit <= _MOST_OF_A_PAGE) as progress:
        task = progress.add_task("requests", total=limit)
        for page in client.pages("/v1/requests", limit, **wanted):
            rows += page
            progress.update(task, completed=len(rows))
    return rows


def listed(rows: list[dict[str, Any]]) -> Table:
    """A table, the newest first."""
    names = ("at", "team", "model", "answered by", "status", "routing", ">in", ">out", ">cost", ">took")
    shown = table(*names)
    for row in rows:
        shown.add_row(*cells(row))
    return shown


def cells(row: dict[str, Any]) -> list[Text]:
    """One request."""
    return [
        clock(row["received_at"]),
        text(row["team_id"]),
        text(row["model_requested"]),
        text("cache" if row["cache_hit"] else row["model_used"]),
        Text.assemble(word(row["status"]), f" {row['error_code']}" if row["error_code"] else ""),
        text(row["routing_decision"]),
        count(row["input_tokens"]),
        count(row["output_tokens"]),
        usd(row["cost_usd"]),
        ms(row["latency_ms"]),
    ]


def _follow(client: Client, wanted: dict[str, Any], first: int, as_json: bool) -> None:
    """Until Ctrl-C. Raises CommandError where the key is refused, or the gateway is not there to begin with."""
    out = console()
    widths = (8, 12, 14, 14, 24, 12, 6, 6, 8, 7)
    for row in follow(client, wanted, first):
        if as_json:
            print_json(row)
            continue
        line = Text()
        for at, (shown, width) in enumerate(zip(cells(row), widths, strict=True)):
            cell = shown.copy()
            cell.truncate(width, overflow="ellipsis")
            cell.align("right" if at >= _FIRST_FIGURE else "left", width)
            line.append_text(cell).append(" ")
        out.print(line, soft_wrap=True)


def follow(client: Client, wanted: dict[str, Any], first: int) -> Iterator[dict[str, Any]]:
    """The last `first` rows, then each new one once. Raises CommandError where the key is refused."""
    seen: OrderedDict[str, None] = OrderedDict()
    _remember(seen, _new(client, wanted, seen, whole=True))
    rows = _fetch(client, wanted, first)
    yield from reversed(rows)
    _remember(seen, rows)
    away = False
    for turn in count_from(1):
        time.sleep(_EVERY_S)
        try:
            fresh = list(_new(client, wanted, seen, whole=away or turn % _WHOLE_EVERY == 0))
        except CommandError as error:
            if error.exit_code == _KEY_REFUSED:
                raise
            if not away:
                click.echo(f"{error}; waiting for it", err=True)
            away = True
            continue
        if away:
            click.echo("it is back", err=True)
        away = False
        _remember(seen, fresh)  # not before all pages are there: what the gateway went away under is fetched again
        yield from reversed(fresh)


def _new(
    client: Client, wanted: dict[str, Any], seen: OrderedDict[str, None], *, whole: bool
) -> Iterator[dict[str, Any]]:
    """What has not been seen, newest first; without `whole` only down to the first page that has nothing new."""
    since = datetime.now(UTC) - timedelta(seconds=_LOOK_BACK_S)
    asked = wanted | {"since": f"{since:%Y-%m-%dT%H:%M:%SZ}"}
    for page in client.pages("/v1/requests", _MOST_AT_ONCE, _PAGE_ROWS, **asked):
        fresh = [row for row in page if row["request_id"] not in seen]
        yield from fresh
        if not fresh and not whole:
            return


def _remember(seen: OrderedDict[str, None], rows: Iterable[dict[str, Any]]) -> None:
    """These were shown, or were there before."""
    seen.update({row["request_id"]: None for row in rows})
    while len(seen) > _REMEMBERED:
        seen.popitem(last=False)
