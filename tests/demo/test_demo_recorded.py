"""Requests that the real providers answered, where recordings are at hand: the simulator judges them alike."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from control.demo.base import Refused
from control.demo.simulator import format_of
from control.demo.wire import Request

RECORDED = Path(__file__).parents[3] / "shared" / "fixtures"
HOSTS = ("api.openai.com", "api.anthropic.com", "generativelanguage.googleapis.com")
# What the simulator leaves out on purpose: tools that the provider itself runs, and signatures it did not issue.
NOT_SIMULATED = ("only custom tools", "server_tool_use", "includeServerSideToolInvocations", "Corrupted thought")


def exchanges() -> Iterator[tuple[str, Request, bytes, int]]:
    """File, request, body, and the status the real provider gave."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for path in sorted(RECORDED.rglob("*.yaml")):
        for interaction in yaml.load(path.read_bytes(), Loader=loader)["interactions"]:
            asked, status = interaction["request"], interaction["response"]["status"]
            url = urlsplit(asked.get("uri") or asked.get("url"))
            if url.netloc in HOSTS:
                body = asked["body"] or b""
                code = status["code"] if isinstance(status, dict) else interaction["response"]["code"]
                request = Request(
                    method=asked["method"].upper(), path=url.path, query=url.query, headers=_headers(asked["headers"])
                )
                yield path.name, request, body if isinstance(body, bytes) else body.encode(), code


def _headers(recorded: dict[str, Any]) -> dict[str, str]:
    return {name.lower(): value[0] if isinstance(value, list) else value for name, value in recorded.items()}


def verdict(request: Request, body: bytes) -> tuple[int, str] | None:
    fmt = format_of(request)
    if fmt is None:
        return None
    try:
        fmt.read(request, body)
    except Refused as refused:
        return refused.status, refused.message
    return 200, ""


@pytest.mark.skipif(not RECORDED.is_dir(), reason="no recorded exchanges at ../shared/fixtures")
def test_recorded_requests_are_taken_and_refused_as_they_were() -> None:
    seen, differing = 0, []
    for name, request, body, status in exchanges():
        found = verdict(request, body)
        if found is None or status == 404:  # which models exist is not simulated
            continue
        seen += 1
        if found[0] != status and not any(known in found[1] for known in NOT_SIMULATED):
            differing.append((name, status, *found))
    assert differing == []
    assert seen > 100
