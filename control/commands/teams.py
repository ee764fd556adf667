"""`gateway teams`: who there is, with which limits; made, changed and deleted at run time."""

from typing import Any

import click
import yaml

from control.commands.client import Client, CommandError, segment
from control.commands.options import as_json, asks, print_json
from control.commands.show import console, count, table, text, usd

_SETTINGS = click.argument("settings", nargs=-1, metavar="[NAME=VALUE]...")


class _ListedByDefault(click.Group):
    """`gateway teams --json` is `gateway teams list --json`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The same, with `list` where no command is named."""
        named = bool(args) and (not args[0].startswith("-") or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named else ["list", *args])


@click.group(cls=_ListedByDefault)
def teams() -> None:
    """Teams and their limits. Without a sub-command: list."""


@teams.command(name="list")
@as_json
@asks
def list_(client: Client, as_json: bool) -> None:
    """All teams."""
    found = client.get("/v1/teams")
    if as_json:
        print_json(found)
        return
    shown = table("team", "from", ">keys", ">tokens a day", ">a month", ">USD a day", ">a month", ">req/min", "models")
    for team in found["teams"]:
        budget, limits = team["budget"], team["limits"]
        shown.add_row(
            text(team["team_id"]),
            "the API" if team["source"] == "api" else "file, changed" if team["overridden"] else "file",
            str(len(team["keys"])),
            count(budget["daily_tokens"]),
            count(budget["monthly_tokens"]),
            usd(budget["daily_usd"]),
            usd(budget["monthly_usd"]),
            count(limits["requests_per_minute"]),
            text(" ".join(team["models"])),
        )
    console().print(shown)


@teams.command()
@click.argument("team")
@as_json
@asks
def show(client: Client, team: str, as_json: bool) -> None:
    """One team's settings, as YAML."""
    _told(client.get(f"/v1/teams/{segment(team)}"), as_json)


@teams.command()
@click.argument("team")
@_SETTINGS
@as_json
@asks
def create(client: Client, team: str, settings: tuple[str, ...], as_json: bool) -> None:
    """A new team, such as: gateway teams create search budget.daily_tokens=1000000"""
    _told(client.send("POST", "/v1/teams", {"id": team} | _wish(settings)), as_json)


@teams.command(name="set")
@click.argument("team")
@_SETTINGS
@as_json
@asks
def set_(client: Client, team: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Change settings, such as: gateway teams set search limits.requests_per_minute=60. null is no limit."""
    _told(client.send("PATCH", f"/v1/teams/{segment(team)}", _wish(settings)), as_json)


@teams.command()
@click.argument("team")
@as_json
@asks
def reset(client: Client, team: str, as_json: bool) -> None:
    """Take all changes back: as gateway.yaml says."""
    _told(client.send("DELETE", f"/v1/teams/{segment(team)}/overrides"), as_json)


@teams.command()
@click.argument("team")
@asks
def delete(client: Client, team: str) -> None:
    """Delete a team that was made here. Its keys are refused from now on."""
    client.send("DELETE", f"/v1/teams/{segment(team)}")
    click.echo(f"{team} deleted")


def _told(team: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(team)
    else:
        click.echo(yaml.safe_dump(team, sort_keys=False, allow_unicode=True), nl=False)


def _wish(settings: tuple[str, ...]) -> dict[str, Any]:
    """`budget.daily_tokens=5` -> {"budget": {"daily_tokens": 5}}; a value is read as YAML. Raises CommandError."""
    wish: dict[str, Any] = {}
    for setting in settings:
        path, equals, value = setting.partition("=")
        *sections, name = path.split(".")
        if not equals or not all((*sections, name)):
            raise _NotASetting(f"not NAME=VALUE, such as budget.daily_tokens=1000000: {setting}")
        within = wish
        for section in sections:
            within = within.setdefault(section, {})
            if not isinstance(within, dict):
                raise _NotASetting(f"{section} is set twice")
        try:
            within[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise _NotASetting(f"the value cannot be read: {setting}") from None
    return wish


class _NotASetting(CommandError):
    exit_code = 2
