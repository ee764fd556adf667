"""The fixtures: one folder per exchange, read into a `Case`, and how a case is run.

A folder holds request.json (the client's), provider.json (what must go to the provider), upstream.sse or upstream.json
(what the provider answered), client.sse or client.json (what the client must get) and meta.toml (target, origin, and
what must be known of the answer).
"""

import json
import tomllib
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from extproc.adapters.base import Final
from extproc.adapters.emit import ClientStream
from extproc.adapters.fold import fold
from extproc.adapters.registry import adapter_for
from extproc.chat import parse_chat
from extproc.records import ChatRequest, ProviderRequest, Target

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
RESPONSE_ID = "chatcmpl-test"
CREATED = 1_700_000_000


class Case(msgspec.Struct, frozen=True):
    """One exchange."""

    path: Path
    chat: ChatRequest
    target: Target
    upstream: bytes
    stream: bool
    expect: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}-{self.path.name}"


def load(path: Path) -> Case:
    meta = tomllib.loads((path / "meta.toml").read_text())
    assert meta["origin"], path
    stream = (path / "upstream.sse").exists()
    upstream = (path / ("upstream.sse" if stream else "upstream.json")).read_bytes()
    target = Target(model="the-model", provider="acme", format=path.parent.name, **meta["target"])  # type: ignore[arg-type]
    chat = parse_chat((path / "request.json").read_bytes())
    assert chat.stream == stream, path
    return Case(path, chat, target, upstream, stream, meta["expect"])


def cases() -> list[Case]:
    return [load(path.parent) for path in sorted(FIXTURES.glob("*/*/meta.toml"))]


def run(case: Case, pieces: Iterable[bytes]) -> tuple[ProviderRequest, bytes, Final]:
    """The provider's request, the client's bytes and how it ended, with the answer fed in `pieces`."""
    adapter = adapter_for(case.target, RESPONSE_ID, CREATED, case.stream)
    request = adapter.request(case.chat)
    if case.stream:
        client = ClientStream(adapter, include_usage=case.chat.include_usage)
        out = b"".join([client.feed(piece) for piece in pieces])
        rest, final = client.finish()
        return request, out + rest, final
    chunks = [chunk for piece in pieces for chunk in adapter.feed(piece)]
    final = adapter.finish()
    answer = fold(chunks, final) if final.error is None else final.error.payload()
    return request, json.dumps(answer, indent=1, ensure_ascii=False).encode() + b"\n", final


def at(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """`data` in pieces, cut at these offsets."""
    marks = [0, *sorted(cuts), len(data)]
    return [data[start:end] for start, end in pairwise(marks)]


def events(client: bytes) -> list[Any]:
    """The values of a client's stream, read the simplest way; the last is "[DONE]" where it was sent."""
    blocks = client.decode().split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [block[6:] if block == "data: [DONE]" else json.loads(block[6:]) for block in blocks]
