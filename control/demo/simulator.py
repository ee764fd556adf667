"""What all connections of a simulator share: options, rules, counters, and the walk from a request to a plan.

In: a request's head and body. Out: the `Plan` of what is written, and when. Control endpoints are answered here too.
"""

import contextlib
import email.utils
import hashlib
import logging
import time
from typing import Any

import msgspec

from control.demo import faults as fault
from control.demo import google, wire
from control.demo.anthropic import Anthropic
from control.demo.ask import Answer, Ask, Shape
from control.demo.base import Format, Meta, Refused
from control.demo.bedrock import Bedrock
from control.demo.faults import Faults, RuleBook
from control.demo.google import Google
from control.demo.openai import OpenAI
from control.demo.stats import Record, Stats
from control.demo.text import PromptCache, compose
from control.demo.wire import Plan, Reply, Request

_log = logging.getLogger(__name__)
_FORMATS: tuple[Format, ...] = (OpenAI(), Anthropic(), Google(), Bedrock())
_OPENAI, _ANTHROPIC, _GOOGLE, _BEDROCK = _FORMATS
_CONTROL_HEADERS = (b"content-type: application/json",)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a simulator behaves by default."""

    faults: Faults = fault.NONE
    seed: int = 0
    api_key: str | None = None  # asked of every request, in the format's own header
    recent: int = 200  # request summaries kept
    record_bodies: bool = False  # show request bodies in the summaries


class Simulator:
    """What all connections share: options, rules, counters, and the walk from a request to a plan."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.rules = RuleBook(options.seed)
        self.stats = Stats(options.recent)
        self._cache = PromptCache()
        self._count = 0
        self._keys: tuple[str, ...] = () if options.api_key is None else (options.api_key,)  # none: all are taken

    def early(self, request: Request, fmt: Format) -> Plan | None:
        """The plan that answers as soon as the head is there, if a default or a rule asks for that."""
        if not (self.options.faults.early_answer or self.rules.any_early):
            return None
        model = request.path.rpartition("/models/")[2].partition(":")[0] if fmt is _GOOGLE else None
        return self._early(fmt, self.rules.apply(self.options.faults, fmt.name, model, early=True))

    def early_by_marker(self, fmt: Format, seen: bytes) -> Plan | None:
        """The plan that answers before the body is whole, if a marker at its beginning asks for that."""
        faults = fault.NONE
        if b"early_answer" in seen:
            with contextlib.suppress(ValueError):
                faults = fault.by_marker(seen.decode(errors="ignore"), fmt.name, "")
        return self._early(fmt, faults)

    def _early(self, fmt: Format, faults: Faults) -> Plan | None:
        if not faults.early_answer:
            return None
        return wire.plan(self._error(fmt, faults), faults, keep_alive=not faults.early_close)

    def answer(self, request: Request, body: bytes, record: Record) -> Plan:
        """The plan for a whole request; fills in `record`."""
        keep_alive = request.headers.get("connection", "").lower() != "close"
        fmt = format_of(request)
        if fmt is None:
            return wire.plan(self._plain(request, body), fault.NONE, keep_alive=keep_alive)
        faults = self.options.faults
        try:
            self._authorize(fmt, request)
            ask = fmt.read(request, body)
            faults = self._faults_for(ask)
            record.model, record.stream = ask.model, ask.stream
            reply = self._error(fmt, faults) if faults.is_error else self._reply(fmt, request, ask, faults, record)
        except Refused as refused:
            reply = fmt.failure(refused, self._meta())
        except Exception:
            _log.exception("the simulator could not answer")
            reply = fmt.failure(Refused(500, "The simulator could not answer; see its log."), self._meta())
        return wire.plan(reply, faults, keep_alive=keep_alive and not faults.early_close)

    def _authorize(self, fmt: Format, request: Request) -> None:
        """Any of the keys will do. Raises Refused."""
        for key in self._keys[1:]:
            with contextlib.suppress(Refused):
                fmt.authorize(request, key)
                return
        for key in self._keys[:1]:
            fmt.authorize(request, key)

    def too_large(self, request: Request) -> Plan:
        """413 in the format's shape."""
        fmt = format_of(request) or _OPENAI
        refused = Refused(413, "Request exceeds the maximum size")
        return wire.plan(fmt.failure(refused, self._meta()), fault.NONE, keep_alive=False)

    def _faults_for(self, ask: Ask) -> Faults:
        faults = self.rules.apply(self.options.faults, ask.format, ask.model)
        faults = fault.by_model(ask.model).over(faults)
        try:
            return fault.by_marker(ask.user, ask.format, ask.model).over(faults)
        except ValueError as error:
            raise Refused(400, str(error)) from None

    def _reply(self, fmt: Format, request: Request, ask: Ask, faults: Faults, record: Record) -> Reply:
        shape = Shape(
            seed=self.options.seed,
            chunks=faults.chunks,
            huge=faults.huge,
            cached_tokens=faults.cached_tokens,
            reasoning_tokens=faults.reasoning_tokens,
            input_bytes_per_token=faults.input_bytes_per_token,
        )
        answer: Answer = compose(ask, shape, self._cache)
        reply = fmt.reply(ask, answer, self._meta(), faults)
        record.prompt_tokens, record.output_tokens = answer.prompt_tokens, answer.output_tokens
        record.reasoning_tokens = answer.reasoning_tokens
        if fmt is _GOOGLE and ask.stream and "alt=sse" not in request.query:
            return google.as_array(reply)
        return reply

    def _error(self, fmt: Format, faults: Faults) -> Reply:
        status = faults.status or 503
        message = faults.message or f"The simulator was asked to answer {status}."
        refused = Refused(status, message, kind=faults.error_type, retry_after=faults.retry_after)
        reply = fmt.failure(refused, self._meta())
        headers = [*reply.headers]
        in_body = fmt is _GOOGLE and (faults.retry_after or "").isdigit()  # Google has no header for it
        if faults.retry_after is not None and not in_body:
            headers.append(b"retry-after: " + _retry_after(faults.retry_after).encode())
        if faults.retry_after_ms is not None:
            headers.append(b"retry-after-ms: %d" % faults.retry_after_ms)
        frames = reply.frames
        if faults.body is not None:
            frames = [faults.body.encode()]
            headers[0] = b"content-type: " + (faults.content_type or "text/html").encode()
        return Reply(status=status, headers=tuple(headers), frames=frames, weights=[0])

    def _meta(self) -> Meta:
        self._count += 1
        unique = hashlib.blake2b(b"%d:%d" % (self.options.seed, self._count), digest_size=16).hexdigest()
        return Meta(unique, int(time.time()))

    def _plain(self, request: Request, body: bytes) -> Reply:
        """Everything that is no completion: control, health, models."""
        match (request.method, request.path):
            case ("GET", "/healthz"):
                return _json({"status": "ok"})
            case ("GET", "/_demo/stats"):
                return _json(self.stats.report())
            case ("DELETE", "/_demo/stats"):
                self.stats.clear()
                self._cache.clear()
                return _json({"status": "reset"})
            case ("PUT", "/_demo/keys"):
                return self._set_keys(body)
            case ("PUT", "/_demo/faults"):
                return self._set_rules(body)
            case ("DELETE", "/_demo/faults"):
                self.rules.set([])
                return _json({"rules": []})
            case ("GET", "/_demo/faults"):
                return _json({"rules": self.rules.rules})
        models = request.path.rpartition("/models")
        if request.method == "GET" and models[1]:
            return _models(request, models[2].removeprefix("/"))
        text = f"Unknown request URL: {request.method} {request.path}."
        return _OPENAI.failure(Refused(404, text, code="unknown_url"), self._meta())

    def _set_keys(self, body: bytes) -> Reply:
        try:
            self._keys = msgspec.json.decode(body, type=tuple[str, ...])
        except msgspec.DecodeError as error:
            return _json({"error": str(error)}, 400)
        return _json({"keys": len(self._keys)})

    def _set_rules(self, body: bytes) -> Reply:
        try:
            self.rules.set(fault.read_rules(body))
        except ValueError as error:
            return _json({"error": str(error)}, 400)
        return _json({"rules": self.rules.rules})


def format_of(request: Request) -> Format | None:
    """The format a completion request speaks, by its path; None for anything else."""
    if request.method != "POST":
        return None
    if request.path.endswith("/chat/completions"):
        return _OPENAI
    if request.path.endswith("/messages"):
        return _ANTHROPIC
    if request.path.endswith(("/invoke", "/invoke-with-response-stream")):
        return _BEDROCK
    return _GOOGLE if request.path.endswith((":generateContent", ":streamGenerateContent")) else None


def _json(value: Any, status: int = 200) -> Reply:
    return Reply(status=status, headers=_CONTROL_HEADERS, frames=[msgspec.json.encode(value)], weights=[0])


def _models(request: Request, name: str) -> Reply:
    """The list of models, or one, in the shape of the format that the path and headers speak."""
    known = {
        "openai": ["gpt-4o", "gpt-4o-mini"],
        "anthropic": ["claude-haiku-4-5-latest"],
        "google": ["gemini-2.5-flash"],
    }
    date = "2025-01-02T03:04:05Z"
    if "/v1beta/" in request.path:
        items = [{"name": f"models/{item}", "displayName": item} for item in ([name] if name else known["google"])]
        return _json(items[0] if name else {"models": items})
    if "anthropic-version" in request.headers:
        names = [name] if name else known["anthropic"]
        found = [{"type": "model", "id": item, "display_name": item, "created_at": date} for item in names]
        ends = {"has_more": False, "first_id": names[0], "last_id": names[-1]}
        return _json(found[0] if name else {"data": found} | ends)
    names = [name] if name else known["openai"]
    listed = [{"id": item, "object": "model", "created": 1_735_787_045, "owned_by": "demo"} for item in names]
    return _json(listed[0] if name else {"object": "list", "data": listed})


def _retry_after(value: str) -> str:
    """The header's value: as it is, or the HTTP date in N seconds for `date:N`."""
    if value.startswith("date:"):
        return email.utils.formatdate(time.time() + float(value[5:]), usegmt=True)
    return value
