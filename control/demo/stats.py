"""What the simulator saw: counters per format and model, and the last requests.

In: one `Record` per request, filled in by `server` while it is answered. Out: the JSON of `GET /_demo/stats`. Heads are
kept as bytes and read only when asked for; credentials are shown as the sha256 of their value.
"""

import hashlib
import itertools
from collections import Counter, deque
from typing import Any

import msgspec

from control.demo.text import tokens

_SECRET = ("authorization", "x-api-key", "x-goog-api-key", "api-key", "cookie", "proxy-authorization")


class Record(msgspec.Struct, kw_only=True):
    """One request, from its head to its end."""

    head: bytes
    format: str = ""
    model: str = ""
    stream: bool = False
    body_bytes: int = 0
    body: bytes | None = None  # kept only if asked to
    status: int = 0  # 0: nothing was answered
    prompt_tokens: int = 0
    reasoning_tokens: int = 0
    output_tokens: int = 0  # what a whole answer has
    sent_weights: list[int] = []  # bytes of output per write of the plan
    sent_parts: int = 0  # writes made
    bytes_sent: int = 0
    outcome: str = "open"  # completed | aborted_by_client | faulted | open

    @property
    def completion_tokens(self) -> int:
        """Output tokens written so far; for an answer written to its end, the usage it reports."""
        if self.outcome == "completed":
            return self.output_tokens
        written = sum(itertools.islice(self.sent_weights, self.sent_parts))
        return min(self.output_tokens, self.reasoning_tokens + tokens(written)) if written else 0

    def summary(self) -> dict[str, Any]:
        """For people and tests; holds no credential."""
        lines = self.head.decode("latin-1").split("\r\n")
        method, _, target = lines[0].partition(" ")
        pairs = (line.partition(":")[::2] for line in lines[1:])
        out: dict[str, Any] = {
            "method": method,
            "path": _without_key(target.rpartition(" ")[0]),
            "headers": {name.lower(): _shown(name.lower(), value.strip()) for name, value in pairs},
            "closed_early": self.outcome == "aborted_by_client",
            "completion_tokens": self.completion_tokens,
        }
        for name in ("format", "model", "stream", "body_bytes", "status", "prompt_tokens", "bytes_sent", "outcome"):
            out[name] = getattr(self, name)
        if self.body is not None:
            out["body"] = msgspec.Raw(self.body)
        return out


def _shown(name: str, value: str) -> str:
    return "sha256:" + hashlib.sha256(value.encode()).hexdigest() if name in _SECRET else value


def _without_key(target: str) -> str:
    path, _, query = target.partition("?")
    kept = "&".join(part for part in query.split("&") if not part.startswith("key="))
    return f"{path}?{kept}" if kept else path


class Totals(msgspec.Struct):
    """Sums over the requests of one format and model."""

    requests: int = 0
    completed: int = 0
    aborted_by_client: int = 0
    faulted: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    bytes_sent: int = 0
    statuses: Counter[str] = msgspec.field(default_factory=Counter)


class Stats:
    """All of it. `recent` bounds the request summaries."""

    def __init__(self, recent: int) -> None:
        self._recent: deque[Record] = deque(maxlen=recent)
        self._totals: dict[tuple[str, str], Totals] = {}

    def clear(self) -> None:
        """Start again; requests still open are no longer counted as open, but are counted when they end."""
        self._recent.clear()
        self._totals.clear()

    def begin(self, record: Record) -> None:
        """A request's head has been read."""
        self._recent.append(record)

    def end(self, record: Record, outcome: str) -> None:
        """A request is over. `outcome`: completed, aborted_by_client or faulted."""
        record.outcome = outcome
        totals = self._totals.get((record.format, record.model))
        if totals is None:
            totals = self._totals[(record.format, record.model)] = Totals()
        totals.requests += 1
        totals.completed += outcome == "completed"
        totals.aborted_by_client += outcome == "aborted_by_client"
        totals.faulted += outcome == "faulted"
        totals.statuses[str(record.status)] += 1
        totals.bytes_sent += record.bytes_sent
        if record.status == 200:
            totals.prompt_tokens += record.prompt_tokens
            totals.completion_tokens += record.completion_tokens

    def report(self) -> dict[str, Any]:
        """`{"formats": {format: {model: totals}}, "open": n, "recent": [newest first]}`."""
        formats: dict[str, dict[str, Any]] = {}
        for (fmt, model), totals in self._totals.items():
            formats.setdefault(fmt, {})[model] = msgspec.to_builtins(totals)
        return {
            "formats": formats,
            "open": sum(record.outcome == "open" for record in self._recent),
            "recent": [record.summary() for record in reversed(self._recent)],
        }
