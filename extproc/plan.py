"""One decided request, alive in its worker until its answer began: what was asked, decided, and tried so far.

In: the pipeline's decision. Out: the provider request of each attempt, made when that attempt begins, from the
client's original body (never from another provider's translation of it). Used by the exchange and by fallback attempts.
"""

from collections.abc import Mapping

import msgspec

from extproc.adapters.base import Adapter
from extproc.adapters.failures import CONTEXT_LENGTH_EXCEEDED
from extproc.adapters.openai import TOOL_CALL_INDEX
from extproc.adapters.registry import adapter_for
from extproc.cache.tape import Tape
from extproc.catalog import Endpoint
from extproc.chat import rewritten
from extproc.errors import GatewayError, InvalidRequest, NoProviderAvailable, ProviderRejected, ProviderTimeout
from extproc.records import ChatRequest, Decision, ProviderRequest, Target
from extproc.routing.deadline import Deadline

_NEARLY = 0.98  # clocks of two processes
_PATIENCE_MS = 60_000  # with an attempt that nothing cuts off: to be asked once more, its connection must go sooner
_SLACK_MS = 5_000  # to connect


class Attempt(msgspec.Struct):
    """One try at one target."""

    index: int  # 1-based position of the target in the decision
    target: Target
    adapter: Adapter
    request: ProviderRequest
    began_ns: int = 0  # no later than Envoy's time for it began, where that is known
    outrun: bool = False  # its deadline passed, the next one began, and it was not cut off
    mended: bool = False  # its tool calls may not be as OpenAI's clients join them: the worker reads the answer
    answered: bool = False  # with 200; what was in it is not known yet, and it may be cut off before it is


class Plan(msgspec.Struct):
    """Mutable on purpose: attempts are added as Envoy makes them."""

    chat: ChatRequest
    decision: Decision
    response_id: str
    endpoints: Mapping[str, Endpoint]  # of the catalog the request began with
    deadline: Deadline
    limit_headers: tuple[tuple[str, str], ...] = ()
    cache_headers: tuple[tuple[str, str], ...] = ()
    tape: Tape = msgspec.field(default_factory=Tape)  # what of the answer is to be kept
    attempts: list[Attempt] = []
    rewrites: Mapping[str, str] = {}  # by model: see `Target.rewrite`
    alone: bool = False  # there is one target, and it may be asked once more where nothing came of the first attempt
    passes: bool = False  # its answer will not come to the worker: see `passing`
    fields: bool = False  # where it passes: a whole one, whose body is to carry the gateway's
    refused: GatewayError | None = None  # why there was no further attempt, where the last answer does not say it

    def first(self, now_ns: int) -> Attempt:
        """The first attempt. Raises InvalidRequest if the provider of a model that was asked for by its name cannot
        express the request, or none can."""
        refusal: InvalidRequest | None = None
        try:
            return self._next(now_ns)
        except NoProviderAvailable as error:
            refusal = error.__cause__ if isinstance(error.__cause__, InvalidRequest) else None
            if refusal is None:
                raise
        raise refusal

    def following(self, now_ns: int, *, larger: bool = False) -> Attempt:
        """The next attempt; `larger`: at a target with a larger window than the last one.

        Raises NoProviderAvailable when every target was tried or cannot express the request, ProviderRejected when no
        larger one is left, and ProviderTimeout where the only one took its time already.
        """
        last = self.attempts[-1]
        waited_ns = now_ns - last.began_ns
        deadline_ns = self.deadline.ms * 1_000_000
        last.outrun = self.deadline.race and waited_ns >= _NEARLY * deadline_ns
        if self.alone:
            return self._again(now_ns, waited_ns)
        # An attempt that is started by a deadline is decided here a little after that: its own time runs already.
        began_ns = min(now_ns, last.began_ns + deadline_ns) if last.outrun else now_ns
        if not larger:
            return self._next(began_ns)
        try:
            return self._next(began_ns, window=self._window(last.target))
        except NoProviderAvailable:
            self.refused = ProviderRejected(
                400,
                "The prompt is longer than the context window of any model that may answer it.",
                param="messages",
                code=CONTEXT_LENGTH_EXCEEDED,
            )
            raise self.refused from None

    def _again(self, now_ns: int, waited_ns: int) -> Attempt:
        """The only target once more, if its connection went away: an idle one may be closed just as it is used."""
        first = self.attempts[0]
        if self.deadline.ms and waited_ns >= _NEARLY * self.deadline.ms * 1_000_000:
            self.refused = ProviderTimeout(f"{first.target.provider} did not answer in time.")
            raise self.refused
        attempt = self._attempt(first.index, first.target, now_ns)
        self.attempts.append(attempt)
        return attempt

    def keep_little(self) -> None:
        """What the last attempt was made of is on its way: keep of it what cannot be made again, or is soon gone."""
        last = self.attempts[-1]
        last.request = msgspec.structs.replace(last.request, body=b"")
        if self.chat.large is not None or self.passes:
            self.chat = msgspec.structs.replace(self.chat, body={})

    def keep_nothing(self) -> None:
        """There will be no further attempt."""
        self.chat = msgspec.structs.replace(self.chat, body={}, text=b"", large=None)

    @property
    def retries(self) -> int:
        """How many attempts may follow the first."""
        return 1 if self.alone else len(self.decision.targets) - self.attempts[0].index

    @property
    def patience_ns(self) -> int:
        """How long it may take until the attempt after the last one must have begun, or that had its time."""
        cut_ms = 0 if self.deadline.race else self.deadline.ms
        return 1_000_000 * ((cut_ms or max(self.deadline.ms, _PATIENCE_MS)) + _SLACK_MS)

    def outrun(self, winner: Attempt) -> tuple[int, ...]:
        """The attempts that were under way when `winner` answered, where the operator pays for such: hedging; and those
        that are paid for anyhow."""
        if not self.deadline.hedge:
            return self.unused(winner)
        last = self.attempts[-1]
        lost = [each for each in self.attempts if each is not winner]
        return tuple(each.index for each in lost if each.outrun or each.answered or each is last)

    def unused(self, used: Attempt) -> tuple[int, ...]:
        """The attempts but `used` that a provider had answered with 200: it was of no use, or cut off."""
        return tuple(each.index for each in self.attempts if each.answered and each is not used)

    @property
    def roomier(self) -> bool:
        """Whether a later target has a larger context window than the one asked now."""
        last = self.attempts[-1]
        later = self.decision.targets[last.index :]
        return any((target.context_tokens or 0) > self._window(last.target) for target in later)

    def _window(self, target: Target) -> int:
        """Tokens that are too many for `target`, if it refused the prompt for its length."""
        return target.context_tokens or self.decision.input_tokens

    def answered_by(self, index: int | None) -> Attempt:
        """The attempt for target `index`; without an index (the answer came from the first provider), the first."""
        for attempt in self.attempts:
            if attempt.index == index:
                return attempt
        return self.attempts[0]

    def translated(self, attempt: Attempt) -> None:
        """Its answer was put into the client's format: whoever reads it again reads that."""
        attempt.adapter = self._adapter(msgspec.structs.replace(attempt.target, format="openai"))

    def _next(self, began_ns: int, window: int | None = None) -> Attempt:
        tried = self.attempts[-1].index if self.attempts else 0
        refusal: InvalidRequest | None = None
        for position in range(tried, len(self.decision.targets)):
            target = self.decision.targets[position]
            if window is not None and (target.context_tokens or 0) <= window:
                continue
            try:
                attempt = self._attempt(position + 1, target, began_ns)
            except InvalidRequest as error:
                if not self.attempts and target.model == self.chat.model:
                    raise  # whoever names a model is not given another one for what it cannot do
                refusal = refusal or error
                continue
            self.attempts.append(attempt)
            return attempt
        raise NoProviderAvailable("No provider could answer this request.") from refusal

    def _attempt(self, index: int, target: Target, began_ns: int) -> Attempt:
        adapter, chat = self._adapter(target), self.chat
        if not chat.body:
            chat = msgspec.structs.replace(chat, body=msgspec.json.decode(chat.text))
        request = adapter.request(rewritten(chat, self.rewrites.get(target.model, "")))
        mended = TOOL_CALL_INDEX in target.unsupported and bool(chat.body.get("tools"))
        return Attempt(index, target, adapter, request, began_ns, mended=mended)

    def _adapter(self, target: Target) -> Adapter:
        return adapter_for(target, self.response_id, int(self.decision.received_at), self.chat.stream)
