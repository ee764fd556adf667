"""The walk of a request, on one screen: authenticate -> read -> route -> cache -> reserve -> deadline.

In: the headers, then the body of a client's request. Out: a `Plan`, from which attempts are shaped, an answer that is
`Served` from the cache, or a GatewayError. The exchange calls it; it knows nothing of Envoy. Time comes in as a
parameter.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from functools import partial
from zlib import crc32

import msgspec

from extproc.admission import Admission, too_large
from extproc.auth import authenticate
from extproc.budget.ledger import HoldClosed, Rider
from extproc.budget.plan import used_pct
from extproc.budget.reserve import Prepared, Reserver
from extproc.cache.hit import Hit
from extproc.cache.served import ROUTING, Served
from extproc.cache.step import NOT_LOOKED, CacheStep, Looked
from extproc.catalog import AUTO, Catalog
from extproc.chat import GatewayMetadata, features, gateway_metadata, prompt_hash, read_chat
from extproc.clock import Clock
from extproc.errors import GatewayError, InvalidApiKey, TeamMismatch
from extproc.plan import Plan
from extproc.records import ChatRequest, Decision, Target
from extproc.routing.choose import Choice, Needs, StandingOf, check_allowed, choose
from extproc.routing.classify import Complexity, classify
from extproc.routing.deadline import Asked, Deadline, deadline
from extproc.routing.standing import View
from extproc.telemetry import trace_context
from extproc.telemetry.steps import Steps
from extproc.wire import H_REQUEST_ID, MAX_REQUEST_BYTES
from extproc.wrong_keys import WrongKeys

# Answers of a model that stood in for another are not kept: the next request may have the right one.
_NOT_KEPT = frozenset({"downgraded", "fallback"})


class _Asked(msgspec.Struct, frozen=True):
    """A request that was read."""

    admission: Admission
    chat: ChatRequest
    body_bytes: int
    wishes: GatewayMetadata
    complexity: Complexity | None  # of a request for `auto`, None for a pinned model
    steps: Steps


class _Chosen(msgspec.Struct, frozen=True):
    """Where a request may go, and what is to be held for it."""

    choice: Choice
    cheaper: Choice | None  # what a strict team's request becomes near its limit
    wanted: Prepared


class Pipeline:
    """The walk, bound to a worker's catalog, ledger, clock, view of providers' health, and cache."""

    def __init__(
        self, catalog: Catalog, reserver: Reserver, clock: Clock, view: View, cache: CacheStep | None = None
    ) -> None:
        self.catalog = catalog
        self.clock = clock
        self._reserver = reserver
        self._view = view
        self._cache = cache
        self._wrong_keys = WrongKeys()

    def use(self, catalog: Catalog) -> None:
        """Go by `catalog` from the next request on."""
        self.catalog = catalog

    def authenticate(self, headers: Mapping[str, str]) -> Admission:
        """Who sends this, before a byte of the body is read. Raises InvalidApiKey, RateLimitExceeded."""
        began_ns = self.clock.mono_ns()
        try:
            team = authenticate(self.catalog, headers)
        except InvalidApiKey as error:
            now_s, hops = self.clock.wall_s(), self.catalog.trusted_hops
            raise self._wrong_keys.refusal(error, headers.get("x-forwarded-for", ""), now_s, hops) from None
        return Admission(
            request_id=headers.get(H_REQUEST_ID, ""),
            team=team,
            catalog=self.catalog,
            path=headers.get(":path", "").partition("?")[0],
            received_at=self.clock.wall_s(),
            began_ns=began_ns,
            traceparent=trace_context.kept(headers.get("traceparent", "")),
            cache_control=headers.get("cache-control", ""),
        )

    async def decide(self, admission: Admission, body: bytes) -> Plan | Served:
        """Read the body, look for an answer, choose the targets, hold what it may cost. Raises GatewayError."""
        steps = Steps(self.clock)
        chat, wishes = await read(admission, body)
        check_allowed(admission.catalog, admission.team, chat.model)
        complexity = classify(chat, admission.team.policy, wishes.routing) if chat.model == AUTO else None
        asked = _Asked(admission, chat, len(body), wishes, complexity, steps)
        steps.done("read")
        chosen: _Chosen | None
        try:
            chosen = await self._choose(asked)
        except GatewayError:
            chosen = None  # of no account where the answer is kept, else raised below
        steps.done("route")
        found = await self._look_up(asked, chosen.wanted.rider if chosen else None)
        steps.done("cache")
        if found.hit is not None:
            return await self._serve(asked, found, found.hit)
        try:
            return await self._plan(asked, found, chosen or await self._choose(asked))
        except BaseException:
            found.tape.give_up()
            raise

    async def limits(self, admission: Admission) -> tuple[tuple[str, str], ...]:
        """The `x-ratelimit-*` headers of an answer for which nothing was held. Never raises."""
        return await self._reserver.limits(admission.team, admission.now_ms)

    async def abandoned(self, admission: Admission) -> None:
        """Its client left before it was decided: say whose it was, which Envoy was not told, so that it has a row."""
        with contextlib.suppress(GatewayError, HoldClosed):
            await self._reserver.sign(admission.team, admission.request_id, admission.now_ms)

    async def _look_up(self, asked: _Asked, rider: Rider | None) -> Looked:
        if self._cache is None:
            return NOT_LOOKED
        admission = asked.admission
        return await self._cache.look_up(
            asked.chat,
            asked.wishes,
            subject=_subject(admission.catalog, asked.chat.model, asked.complexity),
            team=admission.team,
            request_id=admission.request_id,
            traceparent=admission.traceparent,
            cache_control=admission.cache_control,
            now_ms=admission.now_ms,
            rider=rider,
        )

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Have a request asked of the provider too, behind the back of the client."""
        if self._cache is not None:
            self._cache.check(headers, body)

    async def _serve(self, asked: _Asked, found: Looked, hit: Hit) -> Served:
        """The kept answer; it counts as a request of the team's minute. Raises RateLimitExceeded."""
        admission, chat, wishes = asked.admission, asked.chat, asked.wishes
        limit_headers = await self._reserver.count(
            admission.team, hold_id=admission.request_id, priority=wishes.priority, now_ms=admission.now_ms
        )
        asked.steps.done("reserve")
        decision = Decision(
            request_id=admission.request_id,
            team_id=admission.team.id,
            model_requested=chat.model,
            model_routed=hit.entry.model,
            routing_decision=ROUTING,
            prompt_hash=prompt_hash(chat),
            priority=wishes.priority,
            received_at=admission.received_at,
            stream=chat.stream,
            decided_us=asked.steps.total_us,
            steps_us=asked.steps.us,
            traceparent=admission.traceparent,
            cache=found.status,
        )
        return Served(chat, decision, hit, (*found.headers, *limit_headers))

    async def _choose(self, asked: _Asked) -> _Chosen:
        """Choose the targets, and what to hold for them. Raises GatewayError."""
        admission = asked.admission
        settings = admission.team.settings
        choice = self._route(asked)
        # A strict team's hold covers what the request may become, so that is chosen before.
        strict = settings.auto_downgrade and settings.budget.strict
        cheaper = self._route(asked, downgrade=True) if strict else None
        wanted = await self._reserver.prepare(
            admission.team,
            asked.chat,
            choice.targets,
            hold_id=admission.request_id,
            priority=asked.wishes.priority,
            now_ms=admission.now_ms,
            perhaps=cheaper.targets if cheaper else (),
        )
        return _Chosen(choice, cheaper, wanted)

    async def _plan(self, asked: _Asked, found: Looked, chosen: _Chosen) -> Plan:
        """Hold what the request may cost, unless that was done with the look-up. Raises GatewayError."""
        admission, chat, wishes = asked.admission, asked.chat, asked.wishes
        settings = admission.team.settings
        choice = chosen.choice
        hold = await self._reserver.reserve(chosen.wanted)
        if settings.auto_downgrade and used_pct(settings, hold.standing) >= settings.alert.thresholds_pct[0]:
            choice = chosen.cheaper or self._route(asked, downgrade=True)
        if choice.reason in _NOT_KEPT:
            found.tape.give_up()
        asked.steps.done("reserve")
        if hold.max_tokens is not None:
            chat = msgspec.structs.replace(chat, max_tokens=hold.max_tokens)
        targets, first = choice.targets, choice.targets[0]
        rewrites = {target.model: target.rewrite for target in targets if target.rewrite}
        self._view.asked(first, admission.received_at)
        decision = Decision(
            request_id=admission.request_id,
            team_id=admission.team.id,
            model_requested=chat.model,
            model_routed=first.model,
            provider=first.provider,
            routing_decision=choice.reason,
            routing_reason="" if asked.complexity is None else str(asked.complexity),
            prompt_hash=prompt_hash(chat),
            input_tokens=hold.input_tokens,
            counted_tokens=None if hold.counted_tokens == hold.input_tokens else hold.counted_tokens,
            estimated_output_tokens=hold.output_tokens,
            priority=wishes.priority,
            received_at=admission.received_at,
            stream=chat.stream,
            decided_us=asked.steps.total_us,
            steps_us=asked.steps.us,
            traceparent=admission.traceparent,
            cache=found.status,
            targets=tuple(map(_untold, targets)) if rewrites else targets,
        )
        return Plan(
            chat,
            decision,
            f"chatcmpl-{admission.request_id.replace('-', '')}",
            admission.catalog.endpoints,
            self._deadline(asked, targets, hold.input_tokens),
            hold.headers,
            found.headers,
            found.tape,
            rewrites=rewrites,
            alone=wishes.fallback and admission.catalog.routing.attempts > 1 and len(targets) == 1,
        )

    def _route(self, asked: _Asked, *, downgrade: bool = False) -> Choice:
        admission, chat = asked.admission, asked.chat
        # A token is at least a byte of the body, but for images: their address is shorter than what they cost.
        found = features(chat)
        most_tokens = math.inf if "vision" in found else asked.body_bytes
        standing: StandingOf | None = None
        if not self._view.calm:
            draw = crc32(admission.request_id.encode()) / 2**32  # a request's chance is its own, whoever asks
            standing = partial(self._view.of, now_s=admission.received_at, draw=draw)
        return choose(
            admission.catalog,
            admission.team,
            chat.model,
            asked.complexity,
            needs=Needs(found, most_tokens, partial(self._reserver.input_tokens, chat)),
            standing=standing,
            fallback=asked.wishes.fallback,
            downgrade=downgrade,
        )

    def _deadline(self, asked: _Asked, targets: Sequence[Target], input_tokens: int) -> Deadline:
        chat, admission = asked.chat, asked.admission
        race = len(targets) > 1 and not chat.stream
        length = self._reserver.length(admission.team.id, chat, targets[0]) if race else 1.0
        return deadline(self._view, targets, Asked(chat.stream, input_tokens, length), admission.catalog.routing)


def _untold(target: Target) -> Target:
    """For the settler, who has no use for what a stand-in is told; it may be long."""
    return msgspec.structs.replace(target, rewrite="") if target.rewrite else target


async def read(admission: Admission, body: bytes) -> tuple[ChatRequest, GatewayMetadata]:
    """The request, and what it wants of the gateway itself. Raises RequestTooLarge, InvalidRequest, TeamMismatch."""
    if len(body) > MAX_REQUEST_BYTES:
        raise too_large()
    chat = await read_chat(body)
    admission.model = chat.model
    wishes = gateway_metadata(chat)
    if wishes.team_id is not None and wishes.team_id != admission.team.id:
        raise TeamMismatch("metadata.team_id is not the team of this API key.", param="metadata.team_id")
    return chat, wishes


def _subject(catalog: Catalog, model: str, complexity: Complexity | None) -> str:
    """What a model name stands for: its upstream model, so that another one behind the same name is another."""
    if complexity is not None:
        return f"auto:{complexity.tier}"
    target = catalog.targets[model]
    return f"model:{model} {target.provider}/{target.upstream_name}"
