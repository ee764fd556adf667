"""Recorded exchanges with real providers, where a copy of them lies beside the repository.

Reads the cassettes of two recorders (vcrpy and go-vcr). The copy is optional: without it `found()` is empty.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures"


class Recording(msgspec.Struct, frozen=True):
    """One exchange."""

    name: str
    url: str
    request: dict[str, Any]
    status: int
    body: bytes

    @property
    def streamed(self) -> bool:
        if self.url.endswith("/invoke-with-response-stream"):
            return True
        return self.body.lstrip().startswith((b"data:", b"event:", b": ")) and not self.body.startswith(b"{")


def found() -> list[Recording]:
    """All chat exchanges: OpenAI's format, Anthropic's, Google's and Bedrock's."""
    return [recording for path in sorted(FIXTURES.rglob("*.yaml")) for recording in _read(path)]


def of(fmt: str, recordings: list[Recording]) -> list[Recording]:
    """Those of one format."""
    ends = {
        "openai": lambda url: url.endswith("/chat/completions"),
        "anthropic": lambda url: url.endswith("/v1/messages"),
        "google": lambda url: url.endswith((":generateContent", ":streamGenerateContent")),
        "bedrock": lambda url: url.endswith(("/invoke", "/invoke-with-response-stream")),
    }
    return [recording for recording in recordings if ends[fmt](recording.url.partition("?")[0])]


def _read(path: Path) -> Iterator[Recording]:
    cassette = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    for index, exchange in enumerate(cassette.get("interactions") or ()):
        request, response = exchange["request"], exchange["response"]
        url = request.get("uri") or request.get("url")
        status, body = response.get("code"), response["body"]
        if status is None:  # vcrpy
            status, body = response["status"]["code"], body.get("string")
        raw = body.encode() if isinstance(body, str) else body or b""
        if raw.startswith(b"\x1f\x8b"):
            raw = gzip.decompress(raw)
        try:
            asked = json.loads(request.get("body") or "null")
        except ValueError:
            continue
        if isinstance(asked, dict):
            yield Recording(f"{path.parent.name}/{path.stem}-{index}", url, asked, status, raw)
