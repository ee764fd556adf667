"""`gateway keys`: a team's keys, listed, made, rotated, revoked."""

from typing import Any

import click

from control.commands.client import Client, segment
from control.commands.options import as_json, asks, print_json
from control.commands.show import clock, console, table, text, word


@click.group()
def keys() -> None:
    """Keys of a team: list, create, rotate, revoke. Needs an admin key."""


@keys.command(name="list")
@click.argument("team")
@as_json
@asks
def list_(client: Client, team: str, as_json: bool) -> None:
    """A team's keys; what ended lately is among them."""
    found = client.get(_path(team))
    if as_json:
        print_json(found)
        return
    shown = table("key id", "name", "ends with", "status", "from", "made at", "ends at")
    for key in found["keys"]:
        shown.add_row(
            key["key_id"],
            text(key["name"]),
            text(key["last_four"] and f"…{key['last_four']}"),
            word(key["status"]),
            "the API" if key["source"] == "api" else "file",
            clock(key["created_at"]),
            clock(key["expires_at"]),
        )
    console().print(shown)


@keys.command()
@click.argument("team")
@click.option("--name", default="", help="What it is for.")
@click.option("--expires-in", metavar="DURATION", help="Such as 90d. Default: never.")
@as_json
@asks
def create(client: Client, team: str, name: str, expires_in: str | None, as_json: bool) -> None:
    """A new key. It is told once: on stdout, alone, so that it can go straight into a file or a secret store."""
    _tell(client.send("POST", _path(team), {"name": name, "expires_in": expires_in}), as_json)


@keys.command()
@click.argument("team")
@click.argument("key_id")
@click.option("--overlap", default="24h", show_default=True, help="How long the old key holds beside the new one.")
@click.option("--expires-in", metavar="DURATION", help="Such as 90d. Default: as long as the old key was made for.")
@as_json
@asks
def rotate(client: Client, team: str, key_id: str, overlap: str, expires_in: str | None, as_json: bool) -> None:  # noqa: PLR0917
    """A new key in the place of an old one."""
    wish = {"overlap": overlap} | ({} if expires_in is None else {"expires_in": expires_in})
    _tell(client.send("POST", f"{_path(team)}/{segment(key_id)}/rotate", wish), as_json)


@keys.command()
@click.argument("team")
@click.argument("key_id")
@as_json
@asks
def revoke(client: Client, team: str, key_id: str, as_json: bool) -> None:
    """Refuse a key from now on, everywhere within a second."""
    key = client.send("DELETE", f"{_path(team)}/{segment(key_id)}")
    if as_json:
        print_json(key)
    else:
        click.echo(f"{key['key_id']} {key['status']}")


def _path(team: str) -> str:
    return f"/v1/teams/{segment(team)}/keys"


def _tell(made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    click.echo(made["key"])
    click.echo(f"key id {made['key_id']}, told this once; ends {made['expires_at'] or 'never'}", err=True)
    if made["replaces"]:
        click.echo(f"{made['replaces']['key_id']} holds until {made['replaces']['expires_at']}", err=True)
