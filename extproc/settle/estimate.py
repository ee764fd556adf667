"""Output tokens of an answer that was cut, from the bytes that were sent of it; learnt from those that ended whole.

In: audit rows, each once: at start those the journal still has (so that nothing else need be kept over a restart), then
each new one. Out: an estimate per (provider, model, streamed or not). Called by the intake.

Tokens are bytes, less a constant for what surrounds them, over a fading mean of bytes per token. A line with a fitted
constant was tried: after six answers with several tokens a chunk it misses by more than 15 % three times as often.

Bytes tell of visible tokens only. Reasoning goes before them and sends none, so a model's usual amount of it is added
as soon as visible output has begun.

Nor do they tell of what of a translated stream was on its way through a worker when it was torn, which Envoy drops. At
12,000 chunks a second on two cores that was none (1 % missing, as at one stream); at 24,000, more than two cores
translate, a tenth of the streams missed over a sixth. Envoy's count of the provider's bytes knows it, in another size
for each format and for stand-ins in two: a second thing to learn, for machines on which nothing goes well.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

from extproc.records import ProviderFormat, Target
from extproc.settle.rows import AuditRow

MOST_KINDS: Final = 4_096  # least recently learnt are forgotten first
_FADE: Final = 0.98  # per answer
_MOST_WEIGHT_TOKENS: Final = 2_000  # one huge answer says no more than one of these
_PRIOR_WEIGHT_TOKENS: Final = 1.0
_BYTES_PER_TOKEN: Final = (0.5, 5_000.0)  # bounds: beyond them it was no answer of tokens

# Bytes as sent to the client, in OpenAI's format: a stream has about 200 around each chunk, in which OpenAI sends one
# token, Anthropic about three and Google about 25; a whole answer is its text and one envelope.
_AROUND: Final = {True: 300, False: 730}
_PRIOR_STREAMED: Final[dict[ProviderFormat, float]] = {
    "openai": 240.0,
    "azure": 240.0,
    "anthropic": 75.0,
    "google": 12.0,
    "bedrock": 75.0,
}
_PRIOR_WHOLE: Final = 4.8


class Kind(NamedTuple):
    """Answers whose bytes per token are alike."""

    provider: str
    model: str
    stream: bool


class OutputFromBytes:
    """What each model's answers weigh."""

    def __init__(self) -> None:
        self._learnt: OrderedDict[Kind, _Sizes] = OrderedDict()

    def learn(self, row: AuditRow) -> None:
        """Take in a finished request; those that do not tell a true size are passed over."""
        if row.estimated or row.status not in ("success", "fallback"):
            return
        if row.model_used is None or row.provider_used is None or row.response_bytes <= 0:
            return
        visible = row.output_tokens - row.reasoning_tokens
        if visible <= 0:
            return
        kind = Kind(row.provider_used, row.model_used, row.stream)
        sizes = self._learnt.get(kind)
        if sizes is None:
            sizes = self._learnt[kind] = _Sizes()
        sizes.add(row.response_bytes - _AROUND[row.stream], visible, row.reasoning_tokens)
        self._learnt.move_to_end(kind)
        if len(self._learnt) > MOST_KINDS:
            self._learnt.popitem(last=False)

    def tokens(self, target: Target, stream: bool, sent_bytes: int) -> tuple[int, int]:
        """Output tokens behind `sent_bytes` of an answer's body and, among them, reasoning tokens."""
        sizes = self._learnt.get(Kind(target.provider, target.model, stream), _UNKNOWN)
        prior = _PRIOR_STREAMED.get(target.format, _PRIOR_STREAMED["openai"]) if stream else _PRIOR_WHOLE
        visible = max(0, round((sent_bytes - _AROUND[stream]) / sizes.bytes_per_token(prior)))
        reasoning = round(sizes.reasoning) if visible > 0 else 0
        return visible + reasoning, reasoning


class _Sizes:
    """Fading sums over answers."""

    def __init__(self) -> None:
        self._bytes = 0.0
        self._tokens = 0.0
        self.reasoning = 0.0  # tokens, fading mean
        self._answers = 0.0

    def add(self, size: int, tokens: int, reasoning: int) -> None:
        """An answer of `tokens` visible tokens in `size` bytes."""
        least, most = _BYTES_PER_TOKEN
        weight = min(tokens, _MOST_WEIGHT_TOKENS)
        self._bytes = self._bytes * _FADE + weight * min(max(size / tokens, least), most)
        self._tokens = self._tokens * _FADE + weight
        self._answers = self._answers * _FADE + 1
        self.reasoning += (reasoning - self.reasoning) / self._answers

    def bytes_per_token(self, prior: float) -> float:
        """The learnt ratio; next to nothing of `prior` is left in it after one answer of usual length."""
        return (self._bytes + _PRIOR_WEIGHT_TOKENS * prior) / (self._tokens + _PRIOR_WEIGHT_TOKENS)


_UNKNOWN: Final = _Sizes()
