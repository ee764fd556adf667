"""`gateway requests --follow` while the gateway comes and goes; through a real one in tests/envoy/test_commands.py."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from control.commands import requests
from control.commands.client import Client, Unreachable

Page = list[dict[str, Any]]


class Told(Client):
    """Answers each look with the pages it was told, or goes away in the middle of them."""

    def __init__(self, *looks: list[Page | Unreachable]) -> None:
        super().__init__("http://gateway", "key")
        self._looks = iter(looks)

    def pages(self, path: str, most: int, page_rows: int = 0, **query: Any) -> Iterator[Page]:
        for page in next(self._looks):
            if isinstance(page, Unreachable):
                raise page
            yield page


def row(name: str) -> dict[str, Any]:
    return {"request_id": name}


def test_what_a_look_had_read_when_the_gateway_went_away_is_shown_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_EVERY_S", 0)
    known: list[Page | Unreachable] = [[row("a")]]
    gateway = Told(known, known, [[row("c")], Unreachable("gone")], [[row("c")], [row("b"), row("a")]])
    assert list(islice(requests.follow(gateway, {}, 20), 3)) == [row("a"), row("b"), row("c")]
