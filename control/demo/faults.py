"""What goes wrong, and when: latency, chunking and faults of the simulator.

In: process defaults, rules set at run time, the model's name, a marker in the prompt. Out: one `Faults` per request.
Later sources win field by field, in that order. Who calls it: `server`, once per request; pure but for the rules'
counters.

    default          gateway demo --first-byte 200ms --chunk-interval 10ms
    rule             PUT /_demo/faults  {"format": "openai", "model": "gpt-*", "first": 2, "status": 503}
    model's name     fault-503, fault-hang, fault-reset, … (see PRESETS)
    marker           [[demo status=429 retry_after=2]]   [[demo fail_provider=openai reset=mid_stream]]
"""

import fnmatch
import random
import re
import shlex
from typing import Any, Literal

import msgspec

Moment = Literal["before_headers", "after_headers", "mid_stream"]

_MARKER = re.compile(r"\[\[demo\b([^\]]*)\]\]")
_PRESET = re.compile(r"fault-([a-z0-9-]+)$")


class Faults(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How one request is answered; the default is: correctly and at once."""

    first_byte_ms: float | None = None  # wait before the first byte of the answer
    chunk_interval_ms: float | None = None  # wait between stream events; 0: separate writes, no wait
    chunks: int | None = None  # text events of a stream
    huge: int | None = None  # the answer has this many bytes of text
    cached_tokens: int | None = None  # reported instead of what the prompt cache says
    input_bytes_per_token: int | None = None  # of the prompt's text, instead of 4
    reasoning_tokens: int | None = None  # reported instead of what the model's name and the request say
    status: int | None = None  # answer with this error status, in the format's shape
    error_type: str | None = None  # the format's error type, instead of the usual one for `status`
    message: str | None = None
    body: str | None = None  # of the error answer, as it is (a proxy's HTML page, say)
    content_type: str | None = None  # of `body`
    retry_after: str | None = None  # header value: seconds, a date, or `date:N` for the HTTP date in N seconds
    retry_after_ms: int | None = None  # header retry-after-ms
    hang: Moment | None = None  # say nothing more and keep the connection open
    reset: Moment | None = None  # TCP RST
    close_mid_stream: bool = False  # FIN in the middle of the body
    end_mid_stream: bool = False  # the HTTP body ends well, the answer inside it does not
    at: int | None = None  # text events before a mid-stream fault; default: half of them
    early_answer: bool = False  # answer `status` (default 503) before the request's body was read
    early_close: bool = False  # and close at once
    malformed_sse: bool = False  # broken JSON and a stray line in a stream; broken JSON in a plain answer
    error_in_stream: str | None = None  # an error event in a 200 stream; the value is its type, `true` the usual one
    line_end: Literal["lf", "crlf", "cr"] | None = None  # of a stream's lines, instead of the format's own
    crlf: bool = False  # short for line_end=crlf
    one_byte_chunks: bool = False
    split_utf8: bool = False  # every multi-byte character is split over two writes
    gzip: bool = False  # though identity was asked for
    no_usage: bool = False
    no_done: bool = False  # no terminal event: [DONE], message_stop, finishReason

    def over(self, base: "Faults") -> "Faults":
        """`base` with everything that is set here."""
        return msgspec.structs.replace(base, **_set_fields(self)) if self is not NONE else base

    @property
    def is_error(self) -> bool:
        """Whether the answer is an error status instead of an answer."""
        return self.early_answer or (self.status is not None and self.status != 200)


NONE = Faults()

# Selected by an upstream model name that ends in `fault-<name>`; three digits are a status.
PRESETS: dict[str, Faults] = {
    "hang": Faults(hang="before_headers"),
    "hang-mid": Faults(hang="mid_stream"),
    "reset": Faults(reset="before_headers"),
    "reset-headers": Faults(reset="after_headers"),
    "reset-mid": Faults(reset="mid_stream"),
    "close-mid": Faults(close_mid_stream=True),
    "end-mid": Faults(end_mid_stream=True),
    "slow": Faults(first_byte_ms=2000, chunk_interval_ms=100),
    "malformed": Faults(malformed_sse=True),
    "error-in-stream": Faults(error_in_stream="true"),
    "no-usage": Faults(no_usage=True),
    "no-done": Faults(no_done=True),
    "gzip": Faults(gzip=True),
}


class Marker(Faults, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Faults asked for by the prompt, perhaps of one format or model (a shell pattern) only."""

    fail_provider: str | None = None
    fail_model: str | None = None


class Rule(Faults, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Faults for the requests that match. Of those, `skip` are spared first and then only `first` are hit."""

    format: Literal["openai", "anthropic", "google", "bedrock"] | None = None
    model: str | None = None  # a shell pattern
    skip: int = 0
    first: int | None = None
    probability: float = 1.0


_FIELDS = Faults.__struct_fields__


def _set_fields(faults: Faults) -> dict[str, Any]:
    return {name: value for name in _FIELDS if (value := getattr(faults, name)) != getattr(NONE, name)}


class RuleBook:
    """The rules in force. Every rule counts the requests it matched; chance comes from a seeded generator."""

    def __init__(self, seed: int) -> None:
        self.rules: list[Rule] = []
        self._matched: list[int] = []
        self._rng = random.Random(seed)  # noqa: S311 - reproducible chance is the point

    def set(self, rules: list[Rule]) -> None:
        """Replace all rules; counting starts again."""
        self.rules = rules
        self._matched = [0] * len(rules)

    @property
    def any_early(self) -> bool:
        """Whether a rule may answer before the body is read."""
        return any(rule.early_answer for rule in self.rules)

    def apply(self, base: Faults, fmt: str, model: str | None, *, early: bool = False) -> Faults:
        """`base` with the faults of every rule that hits; either those with `early_answer` or all others.

        Early, the model is known only where the path names it; a rule that names one does not hit otherwise.
        """
        for index, rule in enumerate(self.rules):
            if rule.early_answer == early and self._hits(index, rule, fmt, model):
                base = rule.over(base)
        return base

    def _hits(self, index: int, rule: Rule, fmt: str, model: str | None) -> bool:
        if rule.format not in (None, fmt):
            return False
        if rule.model is not None and (model is None or not fnmatch.fnmatchcase(model, rule.model)):
            return False
        self._matched[index] += 1
        at = self._matched[index] - rule.skip
        if at < 1 or (rule.first is not None and at > rule.first):
            return False
        return rule.probability >= 1 or self._rng.random() < rule.probability


def by_model(model: str) -> Faults:
    """The faults a model's name asks for."""
    match = _PRESET.search(model) if "fault-" in model else None
    if match is None:
        return NONE
    if match[1].isdigit():
        return Faults(status=int(match[1]))
    return PRESETS.get(match[1], NONE)


def by_marker(text: str, fmt: str, model: str) -> Faults:
    """The faults that the markers in `text` ask for. Raises ValueError with what is wrong about a marker."""
    faults = NONE
    for match in _MARKER.finditer(text) if "[[demo" in text else ():
        marker = _read_marker(match[1])
        wanted = marker.fail_provider in (None, fmt) and fnmatch.fnmatchcase(model, marker.fail_model or "*")
        if wanted:
            faults = marker.over(faults)
    return faults


def _read_marker(text: str) -> Marker:
    pairs = (word.partition("=") for word in shlex.split(text))
    fields = {key: value if equals else "true" for key, equals, value in pairs}
    try:
        return msgspec.convert(fields, Marker, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"demo marker: {error}") from None


def read_rules(body: bytes) -> list[Rule]:
    """Rules from the JSON of a control request: one object or a list. Raises ValueError."""
    try:
        return msgspec.json.decode(body, type=list[Rule]) if body.lstrip()[:1] == b"[" else [_RULE.decode(body)]
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ValueError(str(error)) from None


_RULE = msgspec.json.Decoder(Rule)
